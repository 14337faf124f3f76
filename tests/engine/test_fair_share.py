"""Virtual token counters: bounded gaps between tenants, no credit for being away."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.scheduling.vtc import Counters, VirtualTokenCounter
from infersim.policies.types import Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.session import Call

KV_TOKENS = 40 * 4
LIMITS = EngineLimits(
    kv_blocks=40,
    block_size=4,
    max_model_len=100,
    max_num_batched_tokens=100,
    max_num_seqs=6,
    prefix_caching=False,
    async_scheduling=False,
)
COST = LinearCost(1000, 10, 5, 1)


def call(number: int, tenant: str, prompt: int, output: int) -> Call:
    """A call of a tenant that shares nothing."""
    segment = Segment(2 * number, 0, prompt)
    return Call((segment,), output, 2 * number + 1, max_tokens=output, tenant=tenant)


def backlog(rng: Random, requests: int) -> list[tuple[int, Call]]:
    """A greedy tenant with many requests, and one with a third of them, all there at the start."""
    tenants = ["greedy"] * (3 * requests) + ["modest"] * requests
    rng.shuffle(tenants)
    return [
        (0, call(i, tenant, rng.randrange(4, 30), rng.randrange(1, 25)))
        for i, tenant in enumerate(tenants)
    ]


def largest_gap(outcome: Any, case: Any) -> float:
    """Weighted tokens that one tenant is ahead of the other, while both have requests in line."""
    rows = outcome.requests
    calls = [what for _, what in case.arrivals]
    events = []
    for i, made in enumerate(calls):
        scheduled, first, last = (
            int(rows[name][i]) for name in ("scheduled_ps", "first_token_ps", "finish_ps")
        )
        events.append((scheduled, made.tenant, float(made.prompt[0].tokens), 1))
        steps = made.output_tokens
        for k in range(steps):  # between first and last the gaps are near enough equal
            at = first + (last - first) * k // max(steps - 1, 1)
            events.append((at, made.tenant, 2.0, 0))
    waiting = defaultdict(int)
    for made in calls:
        waiting[made.tenant] += 1
    served: dict[str, float] = defaultdict(float)
    worst = 0.0
    for _, tenant, weight, leaves in sorted(events):
        served[tenant] += weight
        waiting[tenant] -= leaves
        if min(waiting["greedy"], waiting["modest"]) > 0:
            worst = max(worst, abs(served["greedy"] - served["modest"]))
    return worst


@pytest.mark.parametrize("seed", range(5))
def test_backlogged_tenants_are_never_far_apart(lab: Any, seed: int) -> None:
    """Theorem 4.4: at most twice the larger of a prompt and of the KV, weighted."""
    bound = 2 * max(30.0, 2.0 * KV_TOKENS)
    case = lab.Case(LIMITS, backlog(Random(seed), 60), cost=COST)
    case.make_scheduler = VirtualTokenCounter
    fair = largest_gap(case.run(), case)
    case.make_scheduler = VllmV1
    unfair = largest_gap(case.run(), case)
    assert fair <= bound < unfair


def test_being_away_earns_no_credit(lab: Any) -> None:
    """Who comes late shares from then on; what others had before is not made up for."""
    one = replace(LIMITS, max_num_seqs=1)
    early = [(0, call(i, "early", 4, 10)) for i in range(40)]
    late = [(100_000, call(100 + i, "late", 4, 10)) for i in range(10)]
    case = lab.Case(one, early + late, cost=LinearCost(1000))
    case.make_scheduler = VirtualTokenCounter
    rows = case.run().requests
    order = rows["scheduled_ps"].argsort(kind="stable")
    served = ["late" if i >= 40 else "early" for i in order]
    begun = served.index("late")
    both = served[begun : begun + 20]
    assert begun >= 10
    assert both.count("late") == both.count("early") == 10


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    case = lab.random_case(rng)
    case.arrivals = [
        (at, what._replace(tenant=rng.choice("ab")) if isinstance(what, Call) else what)
        for at, what in case.arrivals
    ]
    case.make_scheduler = VirtualTokenCounter
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


class AllKeys(Counters):
    """Counters whose line is sorted anew, request by request, whenever they have changed."""

    group = None


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_comparing_tenants_is_sorting_requests(lab: Any, rng: Random) -> None:
    case = lab.random_case(rng)
    case.arrivals = [
        (at, what._replace(tenant=rng.choice("abc")) if isinstance(what, Call) else what)
        for at, what in case.arrivals
    ]
    case.make_scheduler = VirtualTokenCounter
    tenants = case.run()

    def sorting() -> VirtualTokenCounter:
        scheduler = VirtualTokenCounter()
        scheduler.order = AllKeys()
        return scheduler

    case.make_scheduler = sorting
    assert lab.differing(tenants, case.run()) == []


def test_weights_are_not_negative() -> None:
    with pytest.raises(InputError):
        VirtualTokenCounter(output_weight=-1.0)
