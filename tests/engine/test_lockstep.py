"""Data-parallel ranks: one clock of steps, the slowest decides, dummies are free of work."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.types import Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine import cluster
from infersim.sim.engine.lockstep import Lockstep, Rank
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.session import Call

CASES = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LIMITS = EngineLimits(
    kv_blocks=100,
    block_size=4,
    max_model_len=200,
    max_num_batched_tokens=64,
    max_num_seqs=8,
    prefix_caching=False,
    async_scheduling=False,
)


def call(content: int, prompt: int, output: int) -> Call:
    """A call that shares nothing with others."""
    return Call(
        session=-1,
        turn=0,
        prompt=(Segment(content, 0, prompt),),
        output_tokens=output,
        output_content=content + 1000,
    )


def ends(outcome: Any) -> list[int]:
    """When each request ended, in order of arrival."""
    return list(outcome.requests["finish_ps"].tolist())


def test_a_step_lasts_as_long_as_the_slowest_rank_and_the_joint_part(lab: Any) -> None:
    cost = LinearCost(1000, 10, 0, 0, per_joint_token_ps=3)
    case = lab.Case(LIMITS, [(0, call(1, 20, 1)), (0, call(2, 50, 1))], cost=cost, ranks=2)
    slowest = 1000 + 10 * 50
    assert ends(case.run()) == [slowest + 3 * 70] * 2


def test_an_idle_rank_holds_nobody_up_and_work_waits_for_the_common_boundary(lab: Any) -> None:
    cost = LinearCost(1000, 10)
    late = [(0, call(1, 20, 4)), (1300, call(2, 50, 1))]
    case = lab.Case(LIMITS, late, cost=cost, ranks=2)
    # 1,200 prefill, then decodes of 1,000; the second's prefill joins at 2,200 and slows the step
    assert ends(case.run()) == [1200 + 1000 + 1500 + 1000, 1200 + 1000 + 1500]


def test_separate_replicas_do_not_wait_for_each_other(lab: Any) -> None:
    late = [(0, call(1, 20, 4)), (1300, call(2, 50, 1))]
    case = lab.Case(LIMITS, late, cost=LinearCost(1000, 10), replicas=2)
    assert ends(case.run()) == [1200 + 3000, 1300 + 1500]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_lead_changes_inside_a_leap(lab: Any, asynchronous: bool) -> None:
    """A short context that grows fast overtakes a long one that grows slowly."""
    limits = replace(LIMITS, async_scheduling=asynchronous)
    arrivals = [(0, call(1, 60, 60)), *((0, call(i, 4, 60)) for i in (2, 3, 4))]
    cost = LinearCost(1000, 10, 0, 7, per_joint_token_ps=2)
    case = lab.Case(limits, arrivals, cost=cost, ranks=2)
    leapt, stepped = case.run(leap=True), case.run(leap=False)
    assert lab.differing(leapt, stepped) == []
    assert leapt.effort.events < stepped.effort.events / 3


@CASES
@given(rng=st.randoms(use_true_random=False), ranks=st.sampled_from([2, 3]))
def test_leaps_of_a_group_change_no_byte(lab: Any, rng: Random, ranks: int) -> None:
    case = lab.random_case(rng)
    case.ranks = ranks
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


class Alone(Rank):
    """A replica driven as a group of one rank."""

    def __init__(self, clock: Any, number: int, *parts: Any, leap: bool, **calls: Any) -> None:
        super().__init__(clock, number, *parts, leap=leap, **calls)
        Lockstep(clock, [self], parts[-1], leap=leap)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_a_group_of_one_is_a_replica(lab: Any, rng: Random) -> None:
    """The group's loop and the replica's are two programs; on one rank they agree."""
    case = lab.random_case(rng)
    case.ranks = 1
    alone = case.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "Server", Alone)
        assert lab.differing(alone, case.run()) == []
