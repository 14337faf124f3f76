"""Orders of the line, and a batch that the best-ranked take: closed forms, starvation, leaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from random import Random
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.policies.scheduling.adaptive import AdaptiveBatch
from infersim.policies.scheduling.base import NEVER
from infersim.policies.scheduling.orders.deadline import EarliestDeadlineFirst
from infersim.policies.scheduling.orders.feedback import RoundRobin, SkipJoinMlfq
from infersim.policies.scheduling.orders.jobs import (
    OracleShortestJobFirst,
    OracleShortestRemaining,
    ShortestJobFirst,
    ShortestRemaining,
    noise,
)
from infersim.policies.scheduling.orders.prompt import ShortestPrefillFirst
from infersim.policies.scheduling.preemptive import Preemptive
from infersim.policies.scheduling.sarathi import Sarathi
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import PS_PER_S, Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits
from infersim.sim.state.session import Call

ONE_AT_A_TIME = EngineLimits(
    kv_blocks=500,
    block_size=4,
    max_model_len=1000,
    max_num_batched_tokens=500,
    max_num_seqs=1,
    prefix_caching=False,
    async_scheduling=False,
)
S = PS_PER_S
COST = LinearCost(S // 10)  # a step takes 0.1 s


def call(content: int, prompt: int, output: int) -> Call:
    """A call that shares nothing with others."""
    return Call((Segment(2 * content, 0, prompt),), output, 2 * content + 1, max_tokens=900)


def knowing(order: Any) -> Any:
    """The order, told the lengths of the answers if it predicts them."""
    if hasattr(order, "attach"):
        order.attach(attrgetter("output_tokens"))
    return order


def play(case: Any, order: Any, *, preemptive: bool = True, leap: bool = True) -> Outcome:
    """Run *case* with the line in *order*."""
    config: ClusterConfig = case.config()
    pools = tuple(
        replace(
            pool,
            make_order=lambda: knowing(order),
            make_scheduler=Preemptive if preemptive else pool.make_scheduler,
        )
        for pool in config.pools
    )
    return simulate(replace(config, pools=pools), case.clients(), leap=leap, check=True)


def ends_s(outcome: Outcome) -> list[float]:
    """When each request ended, in order of arrival."""
    return [at / S for at in outcome.requests["finish_ps"].tolist()]


LONG_THEN_SHORT = [(0, call(1, 4, 50)), (S, call(2, 4, 5))]


@pytest.mark.parametrize("order", [OracleShortestRemaining(), ShortestRemaining(error=0.0)])
def test_the_shortest_remaining_takes_the_place_of_a_longer_one(lab: Any, order: Any) -> None:
    case = lab.Case(ONE_AT_A_TIME, LONG_THEN_SHORT, cost=COST)
    # at 1 s the long one has 10 of 50; the short one runs 5 steps; the long one's 14 known tokens
    # are computed again in the step that gives its eleventh
    assert ends_s(play(case, order)) == [5.5, 1.5]


def test_without_preemption_the_order_only_ranks_the_line(lab: Any) -> None:
    case = lab.Case(ONE_AT_A_TIME, LONG_THEN_SHORT, cost=COST)
    assert ends_s(play(case, OracleShortestRemaining(), preemptive=False)) == [5.0, 5.5]


def test_a_better_rank_is_needed_to_take_a_place(lab: Any) -> None:
    """With 4 left, nobody with 5 to go takes its place."""
    late = [LONG_THEN_SHORT[0], (4 * S + 6 * S // 10, call(2, 4, 5))]
    case = lab.Case(ONE_AT_A_TIME, late, cost=COST)
    assert ends_s(play(case, OracleShortestRemaining())) == [5.0, 5.5]


def test_a_request_is_preempted_only_so_often(lab: Any) -> None:
    shorts = [(i * S, call(i + 2, 4, 2)) for i in range(1, 12)]
    case = lab.Case(ONE_AT_A_TIME, [LONG_THEN_SHORT[0], *shorts], cost=COST)
    outcome = play(case, OracleShortestRemaining())
    # 50 steps and 5 x 2: it ends as the sixth comes
    assert outcome.requests["preemptions"].tolist()[0] == 5
    longer = lab.Case(ONE_AT_A_TIME, [(0, call(1, 4, 300)), *shorts], cost=COST)
    assert play(longer, OracleShortestRemaining()).requests["preemptions"].tolist()[0] == 8


def test_time_slices_are_equal(lab: Any) -> None:
    """Two requests of 8 tokens in slices of 2: they end one slice apart."""
    case = lab.Case(ONE_AT_A_TIME, [(0, call(1, 4, 8)), (0, call(2, 4, 8))], cost=COST)
    first, second = ends_s(play(case, RoundRobin(quantum_tokens=2)))
    assert (first, second) == pytest.approx((1.4, 1.6))


def test_short_jobs_first_has_the_least_mean(lab: Any) -> None:
    outputs = [40, 5, 30, 10, 20]
    case = lab.Case(ONE_AT_A_TIME, [(0, call(i, 4, n)) for i, n in enumerate(outputs)], cost=COST)
    ends = ends_s(play(case, OracleShortestJobFirst(), preemptive=False))
    # the first was admitted alone in its instant; the others follow by size
    in_order = sorted(range(5), key=lambda i: ends[i])
    assert [outputs[i] for i in in_order if i] == [5, 10, 20, 30]


def test_a_stream_of_short_prompts_starves_a_long_one_until_aging_is_on(lab: Any) -> None:
    stream = [(0, call(0, 400, 1)), (0, call(1, 300, 1))]
    stream += [(i * S // 10, call(i + 2, 10, 1)) for i in range(60)]
    case = lab.Case(ONE_AT_A_TIME, stream, cost=COST)
    starved = ends_s(play(case, ShortestPrefillFirst(), preemptive=False))
    aged = ends_s(play(case, ShortestPrefillFirst(aging_tokens_per_s=100.0), preemptive=False))
    assert max(starved) == starved[0]
    assert sorted(starved)[-2] == starved[1]
    assert aged[1] < 4 < aged[0] < 5 < max(aged)


def seq(prompt: int = 4, known: int = 0, **fields: Any) -> Any:
    """What an order sees."""
    arrival = fields.pop("arrival_ps", 0)
    tenant = fields.pop("tenant", "")
    request = SimpleNamespace(
        id=7, prompt_tokens=prompt, arrival_ps=arrival, tenant=tenant, max_tokens=100
    )
    return lab_view(request=request, known_tokens=known or prompt, **fields)


class lab_view(SimpleNamespace):  # noqa: N801
    """Weakly referable, with the defaults of a request that has just come."""

    computed_tokens = 0
    is_waiting = True
    queued_ps = 0

    __hash__ = object.__hash__


def test_deadlines() -> None:
    order = EarliestDeadlineFirst(2.0, {"gold": 0.5}, per_prompt_token_s=0.01)
    assert order.key(seq(100), 0) == (False, 3 * S)
    assert order.key(seq(100, tenant="gold"), 0) == (False, 3 * S // 2)
    assert order.key(seq(100), 3 * S + 1) == (True, 3 * S)
    assert order.key(seq(100, known=101), 3 * S + 1) == (False, 3 * S)  # it has its first token
    assert order.changes_ps(seq(100), S) == 3 * S + 1
    assert order.changes_ps(seq(100), 4 * S) == NEVER
    assert not EarliestDeadlineFirst(1.0, late_last=False).key(seq(), 5 * S)[0]


def test_levels_of_the_feedback_queue() -> None:
    order = SkipJoinMlfq(quantum_steps=4, levels=4, prefill_tokens_per_step=100, promote_after_s=1)
    assert [order.level(seq(tokens)) for tokens in (1, 400, 401, 800, 1600, 9999)] == [
        *(0, 0, 1, 1, 2, 3)
    ]
    # joins level 0 with a quantum of 4: prefill, then three tokens more; then 8 and 16
    sunk = [order.level(seq(100, 100 + n)) for n in (1, 3, 4, 11, 12, 27, 28, 500)]
    assert sunk == [0, 0, 1, 1, 2, 2, 3, 3]
    one = seq(9999)
    assert order.key(one, S - 1) == (3, 0)
    assert order.changes_ps(one, 0) == S
    assert order.key(one, S) == (0, 0)
    one.is_waiting, one.known_tokens = False, 9999 + 5
    assert order.key(one, 2 * S) == (3, 0)  # the prefill alone used up what it was given


def test_predictions_miss_by_the_error_that_was_asked_for() -> None:
    normals = [noise(3, i) for i in range(4000)]
    assert mean(normals) == pytest.approx(0, abs=0.05)
    assert stdev(normals) == pytest.approx(1, abs=0.05)
    assert noise(3, 5) != noise(4, 5)
    order = knowing(ShortestJobFirst(error=0.3, seed=3))
    one = seq(output_tokens=50)
    assert order.predicted(one) == order.predicted(one) != 50
    assert knowing(OracleShortestJobFirst()).predicted(one) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RoundRobin(quantum_tokens=0),
        lambda: SkipJoinMlfq(levels=0),
        lambda: ShortestJobFirst(error=-0.1),
        lambda: ShortestPrefillFirst(aging_tokens_per_s=float("nan")),
        lambda: EarliestDeadlineFirst(tenant_ttft_s={"a": -1.0}),
    ],
)
def test_refuses_numbers_that_mean_nothing(wrong: Callable[[], Any]) -> None:
    with pytest.raises(InputError):
        wrong()


ORDERS = {
    "spf": lambda: ShortestPrefillFirst(3.0),
    "edf": lambda: EarliestDeadlineFirst(1e-9 * 20),
    "sjf": ShortestJobFirst,
    "srpt": ShortestRemaining,
    "mlfq": lambda: SkipJoinMlfq(2, 3, 8, 1e-9 * 30),
    "round-robin": lambda: RoundRobin(3),
}


def test_sarathi_keeps_every_step_small(lab: Any) -> None:
    """Ten tokens a step: the decode gets one, the prompt of 100 the other nine."""
    limits = replace(ONE_AT_A_TIME, max_num_seqs=4)
    case = lab.Case(limits, [(0, call(1, 4, 30)), (S, call(2, 99, 1))], cost=LinearCost(S // 10))
    case.make_scheduler = lambda: Sarathi(chunk_tokens=10)
    first, second = ends_s(case.run())
    assert (first, second) == pytest.approx((3.0, 1.0 + 1.1))
    case.make_scheduler = VllmV1
    assert ends_s(case.run()) == pytest.approx([3.0, 1.1])


def test_an_adaptive_batch_settles_where_steps_take_as_long_as_they_may(lab: Any) -> None:
    """A step takes 10 ms a sequence: 50 ms hold five of them."""
    limits = replace(ONE_AT_A_TIME, max_num_seqs=64, kv_blocks=5000)
    arrivals = [(0, call(i, 4, 40)) for i in range(300)]
    case = lab.Case(limits, arrivals, cost=LinearCost(1, per_sequence_ps=S // 100))
    case.make_scheduler = lambda: AdaptiveBatch(tpot_s=0.05)
    series = case.run().series
    late = series["running"][len(series["running"]) // 2 : -20]
    assert 4 <= late.mean() <= 6
    case.make_scheduler = VllmV1
    assert case.run().series["running"].max() == 64


@pytest.mark.parametrize("make", [lambda: AdaptiveBatch(1e-9 * 9), lambda: Sarathi(chunk_tokens=5)])
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_leaps_of_schedulers_change_no_byte(lab: Any, make: Any, rng: Random) -> None:
    case = lab.random_case(rng)
    case.make_scheduler = make
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


@pytest.mark.parametrize("name", sorted(ORDERS))
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False), preemptive=st.booleans())
def test_leaps_change_no_byte(lab: Any, name: str, rng: Random, preemptive: bool) -> None:
    case = lab.random_case(rng)
    runs = [play(case, ORDERS[name](), preemptive=preemptive, leap=leap) for leap in (True, False)]
    assert lab.differing(*runs) == []
