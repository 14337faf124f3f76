"""Requests with a grammar: they wait for it in their place, once a replica; steps fill masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies import registry
from infersim.policies.types import Grammar
from infersim.sim.cost.base import EVEN, Contexts, DecodeLine, StepShape
from infersim.sim.cost.linear import LinearCost
from infersim.sim.cost.shape import shape_of
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.replica import Replica
from infersim.sim.state.session import Call

CASES = settings(
    max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
LIMITS = EngineLimits(4000, max_num_batched_tokens=1024, max_model_len=4000, async_scheduling=False)
STEP, ROW, COMPILE = 10**6, 10**4, 7 * 10**6


@dataclass(frozen=True)
class Masked(LinearCost):
    """A linear cost with a price for rows that have a grammar."""

    per_structured_row_ps: int = ROW

    def duration_ps(self, shape: StepShape) -> int:
        return LinearCost.duration_ps(self, shape) + self.per_structured_row_ps * shape.structured

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        line = LinearCost.decode_line(self, decodes, context_tokens)
        return line._replace(base_ps=line.base_ps + self.per_structured_row_ps * structured)


COST = Masked(STEP)


def structured(lab: Any, number: int, output: int = 4, key: int = 0, **given: Any) -> Call:
    compile_ps = given.pop("compile_ps", COMPILE)
    call: Call = lab.call(number, 30, output, grammar=Grammar(key, compile_ps), **given)
    return call


def rows_of(case: Any, **given: Any) -> dict[str, list[int]]:
    return {name: column.tolist() for name, column in case.run(**given).requests.items()}


# ---- waiting for a grammar ----------------------------------------------------------------------


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_alone_it_waits_for_the_compile_and_then_pays_for_each_mask(
    lab: Any, apart: bool, leap: bool
) -> None:
    limits = replace(LIMITS, grammars_apart=apart)
    case = lab.Case(limits, [(5, structured(lab, 1, output=4))], cost=COST)
    outcome = case.run(leap=leap)
    rows = outcome.requests
    assert rows["grammar_ps"].tolist() == [COMPILE]
    assert rows["scheduled_ps"].tolist() == [5 + COMPILE]
    assert rows["finish_ps"].tolist() == [5 + COMPILE + 4 * (STEP + ROW)]
    assert outcome.totals["compiled_grammars"] == 1


def test_without_grammars_there_is_no_column_and_no_counter(lab: Any) -> None:
    outcome = lab.Case(LIMITS, [(0, lab.call(1, 30, 4))], cost=COST).run()
    assert "grammar_ps" not in outcome.requests
    assert "compiled_grammars" not in outcome.totals
    assert outcome.requests["finish_ps"].tolist() == [4 * STEP]


def test_a_grammar_is_compiled_once_a_replica_and_awaited_together(lab: Any) -> None:
    calls = [
        (0, structured(lab, 1)),
        (0, structured(lab, 2)),  # at the other replica
        (COMPILE // 2, structured(lab, 3)),
        (COMPILE // 2, structured(lab, 4, key=1)),
        (COMPILE * 5, structured(lab, 5)),
        (COMPILE * 5, structured(lab, 6)),
    ]
    rows = rows_of(lab.Case(LIMITS, calls, cost=COST, replicas=2))
    assert rows["grammar_ps"] == [COMPILE, COMPILE, COMPILE // 2, COMPILE, 0, 0]
    outcome = lab.Case(LIMITS, calls, cost=COST, replicas=2).run()
    assert outcome.totals["compiled_grammars"] == 3


def test_in_line_it_is_passed_over_and_keeps_its_place(lab: Any) -> None:
    """Until its grammar is there others go first; then it is before who came after it."""
    limits = replace(LIMITS, max_num_seqs=1)
    calls = [(0, lab.call(9, 30, 10)), (1, structured(lab, 1)), (2, lab.call(2, 30, 4))]
    late = rows_of(lab.Case(limits, calls, cost=COST))  # compiled while 9 runs
    assert late["scheduled_ps"] == [0, 10 * STEP, 14 * STEP + 4 * ROW]
    calls[1] = (1, structured(lab, 1, compile_ps=11 * STEP))
    passed = rows_of(lab.Case(limits, calls, cost=COST))
    assert passed["scheduled_ps"] == [0, 14 * STEP, 10 * STEP]


def test_apart_it_joins_the_line_when_its_grammar_is_there(lab: Any) -> None:
    limits = replace(LIMITS, max_num_seqs=1, grammars_apart=True)
    calls = [(0, lab.call(9, 30, 10)), (1, structured(lab, 1)), (2, lab.call(2, 30, 4))]
    rows = rows_of(lab.Case(limits, calls, cost=COST))
    assert rows["scheduled_ps"] == [0, 14 * STEP, 10 * STEP]


@pytest.mark.parametrize("leap", [True, False])
def test_a_grammar_that_is_ready_cuts_a_leap(lab: Any, leap: bool) -> None:
    """Its request joins at the first step boundary after, not when the batch changes."""
    calls = [(0, lab.call(9, 30, 1000)), (1, structured(lab, 1, compile_ps=17 * STEP // 2))]
    rows = rows_of(lab.Case(LIMITS, calls, cost=COST), leap=leap)
    assert rows["scheduled_ps"][1] == 9 * STEP


def test_the_decode_half_waits_for_its_own_compile(lab: Any) -> None:
    """Pull: it reaches its replica when the prefill is done, and the KV waits with it."""
    case = lab.Case(LIMITS, [(0, structured(lab, 1, output=2))], cost=COST, decoders=1)
    rows = rows_of(case)
    prefilled = COMPILE + STEP + ROW
    assert rows["grammar_ps"] == [COMPILE]
    assert rows["first_token_ps"][0] > prefilled + COMPILE
    assert case.run().totals["compiled_grammars"] == 2


@pytest.mark.parametrize(
    "name", ["vllm-v1", "prefill-first", "static-batch", "preemptive", "sglang"]
)
def test_no_scheduler_preempts_or_admits_for_who_has_no_grammar_yet(lab: Any, name: str) -> None:
    limits = replace(LIMITS, max_num_seqs=2)
    urgent = structured(lab, 1, compile_ps=50 * STEP, priority=0)
    calls = [
        (0, lab.call(8, 30, 20, priority=1)),
        (0, lab.call(9, 30, 20, priority=1)),
        (5, urgent),
    ]
    scheduler = registry.scheduling.get(name)
    case = lab.Case(
        limits, calls, cost=COST, make_scheduler=scheduler, priority=name == "preemptive"
    )
    rows = rows_of(case)
    assert rows["preemptions"] == [0, 0, 0]
    assert rows["scheduled_ps"][2] == 5 + 50 * STEP
    assert max(rows["finish_ps"][:2]) < 50 * STEP


# ---- the step -----------------------------------------------------------------------------------


def test_only_rows_that_sample_have_masks(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks before the last sample nothing; a mixed batch counts who has a grammar."""
    limits = replace(LIMITS, max_num_batched_tokens=20)
    shapes: list[StepShape] = []
    close = Replica.begin

    def noted(replica: Replica, plan: Any) -> None:
        shapes.append(shape_of(plan))
        close(replica, plan)

    monkeypatch.setattr(Replica, "begin", noted)
    calls = [(0, structured(lab, 1, output=6, compile_ps=0)), (0, lab.call(2, 9, 5))]
    lab.Case(limits, calls, cost=COST).run(leap=False)
    assert [(one.samples, one.structured) for one in shapes] == [
        (0, 0),
        (2, 1),
        *[(2, 1)] * 4,
        (1, 1),
    ]


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_who_has_ended_has_no_mask(lab: Any, asynchronous: bool, leap: bool) -> None:
    """The batch pays for a grammar as long as a row of it has one."""
    limits = replace(LIMITS, async_scheduling=asynchronous)
    calls = [
        (0, lab.call(2, 30, 20)),
        (0, structured(lab, 1, output=7, max_tokens=7, compile_ps=0)),
        (0, structured(lab, 3, output=4, max_tokens=4, compile_ps=0)),
    ]
    rows = rows_of(lab.Case(limits, calls, cost=COST), leap=leap)
    assert rows["finish_ps"] == [20 * STEP + 11 * ROW, 7 * STEP + 11 * ROW, 4 * STEP + 8 * ROW]


def test_drafts_have_masks_of_their_own(lab: Any) -> None:
    """vLLM fills one for each draft and one for the token behind them."""
    limits = replace(LIMITS, num_spec_tokens=2)
    case = lab.Case(limits, [(0, structured(lab, 1, output=3, compile_ps=0))], cost=COST)
    assert rows_of(case)["finish_ps"] == [STEP + ROW + 2 * (STEP + 3 * ROW)]


def with_grammars(rng: Random, what: Any, lab: Any) -> Any:
    """Some of the calls get a grammar."""
    if isinstance(what, Call):
        if rng.random() < 0.5:
            return what
        compile_ps = rng.choice((0, 1, 5 * 10**10, 10**11, 10**12))
        return what._replace(grammar=Grammar(rng.randrange(3), compile_ps))
    steps = []
    for kind, *rest in what.steps:
        if kind == "call":
            rest[0] = with_grammars(rng, rest[0], lab)
        elif kind == "together":
            rest[0] = [with_grammars(rng, part, lab) for part in rest[0]]
        steps.append((kind, *rest))
    return lab.Script(tuple(steps))


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    case = lab.random_case(rng)
    case.limits = replace(case.limits, grammars_apart=rng.random() < 0.3)
    case.arrivals = [(at, with_grammars(rng, what, lab)) for at, what in case.arrivals]
    if isinstance(case.cost, LinearCost):
        one = case.cost
        case.cost = Masked(
            one.base_ps,
            one.per_prefill_token_ps,
            one.per_sequence_ps,
            one.per_context_token_ps,
            per_structured_row_ps=rng.choice((0, 3 * 10**8)),
        )
    leapt = case.run(leap=True)
    assert lab.differing(leapt, case.run(leap=False)) == []
    if "grammar_ps" in leapt.requests:
        rows = leapt.requests
        served = rows["grammar_ps"] >= 0
        assert (rows["scheduled_ps"] - rows["arrival_ps"] >= rows["grammar_ps"])[served].all()
