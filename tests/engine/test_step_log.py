"""The step log says what each step computed, and keeping it changes nothing."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from infersim.policies.eviction.lru import Lru
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import simulate
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.session import Call
from infersim.sim.state.steps import StepLog, digest
from infersim.sim.state.swap import Swap


def traced(case: Any) -> tuple[Any, dict[str, Any]]:
    log = StepLog()
    outcome = simulate(case.config(), case.clients(), trace=log)
    return outcome, log.arrays()


@pytest.mark.parametrize("seed", range(12))
def test_a_log_changes_no_record(lab: Any, seed: int) -> None:
    case = lab.random_case(Random(seed))
    plain = case.run(check=False)
    outcome, steps = traced(case)
    assert lab.differing(plain, outcome) == []
    assert len(steps["step"]) == outcome.totals["steps"]
    assert (steps["end_ps"] - steps["start_ps"]).sum() == outcome.totals["busy_ps"]
    assert (steps["end_ps"] > steps["start_ps"]).all()


@pytest.mark.parametrize("seed", range(20, 32))
def test_runs_of_blocks_and_single_blocks_decide_alike(lab: Any, seed: int) -> None:
    logs = []
    for by_block in (False, True):
        case = lab.random_case(Random(seed), by_block=by_block)
        logs.append(traced(case)[1])
    for name, column in logs[0].items():
        assert column.tolist() == logs[1][name].tolist(), name


def test_rows_of_two_requests_by_hand(lab: Any) -> None:
    """Budget 8, blocks of 4: 10 tokens, then the same 10 that find two blocks."""
    limits = EngineLimits(
        kv_blocks=20, block_size=4, max_num_batched_tokens=8, async_scheduling=False
    )
    call: Call = lab.call(1, 10, 2)
    case = lab.Case(limits, [(0, call), (10**6, call)], cost=LinearCost(1000), eviction=Lru)
    _, steps = traced(case)
    rows = {name: column.tolist() for name, column in steps.items() if name != "digest"}
    assert rows == {
        "replica": [0] * 5,
        "step": [0, 1, 2, 3, 4],
        "start_ps": [0, 1000, 2000, 10**6, 10**6 + 1000],
        "end_ps": [1000, 2000, 3000, 10**6 + 1000, 10**6 + 2000],
        "decodes": [0, 0, 1, 0, 1],
        "decode_context_tokens": [0, 0, 11, 0, 11],
        "prefill_chunks": [1, 1, 0, 1, 0],
        "prefill_tokens": [8, 2, 0, 2, 0],
        "prefill_context_tokens": [0, 8, 0, 8, 0],
        "samples": [0, 1, 1, 1, 1],
        "admitted": [1, 0, 0, 1, 0],
        "preempted": [0] * 5,
        "hit_tokens": [0, 0, 0, 8, 0],
        "remote_tokens": [0] * 5,
    }
    digests = steps["digest"].tolist()
    assert len(set(digests)) == 5  # other requests, other positions, other digests


def test_the_digest_knows_each_part_of_a_decision() -> None:
    seq, other = SimpleNamespace(id=3), SimpleNamespace(id=4)
    remote = SimpleNamespace(tokens=0)

    def plan(start: int = 5, tokens: int = 2, local: int = 4, **given: Any) -> Any:
        chunk = SimpleNamespace(seq=given.get("who", seq), start=start, tokens=tokens)
        admission = (seq, 9, local, remote, False)
        return SimpleNamespace(
            members=None,
            chunks=[chunk],
            admissions=[admission],
            preempted=given.get("gone", []),
            swaps=given.get("swaps", ()),
        )

    plans = [plan(), plan(6), plan(5, 1), plan(5, 2, 0), plan(who=other), plan(gone=[other])]
    swaps = [
        Swap(who, out, blocks)
        for who, out, blocks in ((seq, True, 2), (seq, False, 2), (seq, True, 3))
    ]
    plans += [plan(swaps=[swap]) for swap in swaps]
    assert len({digest([one]) for one in plans}) == len(plans)
    assert digest([plan()]) == digest([plan()])
