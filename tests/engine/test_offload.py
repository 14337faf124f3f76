"""A tier for KV in host memory: what it holds, what it saves, and that leaps change nothing."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from infersim.policies.eviction.lru import Lru
from infersim.policies.types import Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import simulate
from infersim.sim.state.config import EngineLimits, OffloadLimits
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.offload import HostTier, OffloadConnector
from infersim.sim.state.session import Call
from infersim.sim.state.steps import StepLog


def test_the_least_recent_leaves_the_tier() -> None:
    tier = HostTier(2)
    assert [tier.store(7), tier.store(8)] == [0, 1]
    tier.touch([7])
    assert tier.store(9) == 1  # 8's slot
    assert tier.store(7) is None
    assert tier.find([7, 9]) == [0, 1]
    assert tier.find([7, 8, 9]) == [0]
    assert tier.find([8, 7]) == []
    assert len(tier) == 2


def with_tier(case: Any, tier: OffloadLimits) -> Any:
    config = case.config()
    return replace(config, pools=tuple(replace(pool, offload=tier) for pool in config.pools))


@pytest.mark.parametrize("seed", range(40, 70))
def test_leaps_change_no_record(lab: Any, seed: int) -> None:
    rng = Random(seed)
    case = lab.random_case(rng)
    case.decoders = 0
    case.limits = replace(case.limits, prefix_caching=True)
    tier = OffloadLimits(rng.choice((3, 20, 400)), rng.choice((0, 10**11)), rng.choice((50, 10**6)))
    runs = [
        simulate(with_tier(case, tier), case.clients(), leap=leap, check=True)
        for leap in (True, False)
    ]
    assert lab.differing(*runs) == []


def test_a_prompt_that_was_evicted_is_loaded(lab: Any) -> None:
    """Ten blocks of 4: A fills five, B evicts them, A comes again and loads four."""
    limits = EngineLimits(
        kv_blocks=10, block_size=4, max_num_batched_tokens=64, async_scheduling=False
    )
    calls = [lab.call(1, 18, 1), lab.call(2, 38, 1), lab.call(1, 18, 1)]
    case = lab.Case(
        limits,
        [(10**6 * i, call) for i, call in enumerate(calls)],
        cost=LinearCost(1000, 1000),
        eviction=Lru,
        kv_bytes_per_token=5,
    )
    config = with_tier(case, OffloadLimits(100, latency_ps=70, bytes_per_s=10**12))
    log = StepLog()
    outcome = simulate(config, case.clients(), trace=log, check=True)
    rows = outcome.requests
    assert rows["hit_tokens"].tolist() == [0, 0, 0]
    assert rows["remote_tokens"].tolist() == [0, 0, 16]
    assert rows["transfer_bytes"].tolist() == [0, 0, 16 * 5]
    assert rows["transfer_ps"].tolist() == [0, 0, 16 * 5 + 70]
    assert rows["evicted_tokens"].tolist() == [0, 0, 0]  # what is loaded did not miss
    assert rows["scheduled_ps"].tolist() == [0, 10**6, 2 * 10**6 + 150]
    assert rows["finish_ps"][2] == 2 * 10**6 + 150 + 1000 + 2 * 1000
    assert outcome.totals["offload_loaded_blocks"] == 4
    assert outcome.totals["offload_stored_blocks"] == 4 + 9
    assert log.arrays()["remote_tokens"].tolist() == [0, 0, 16]


def test_blocks_that_are_gone_are_not_written(request: pytest.FixtureRequest) -> None:
    pool = BlockPool(4, 4, Lru())
    kept: list[Any] = []
    connector = OffloadConnector(pool, 8, 10, kept.append, lambda load, here: None)
    pool.filled = [(5, 1), (6, 2)]
    pool._ref, pool._key = [0, 0, 0], [None, 99, 6]  # block 1 holds something else by now
    connector.planning()
    assert kept == [[(2, 0)]]
    assert pool.filled == []


def test_the_tier_needs_no_capacity_of_its_own(lab: Any) -> None:
    """One slot: the last block of a prompt displaces the one before, so nothing is ever found."""
    limits = EngineLimits(kv_blocks=10, block_size=4, max_num_batched_tokens=64)
    prompt: Callable[[int], Call] = lambda i: Call((Segment(i, 0, 18, ""),), 1, 50 + i)  # noqa: E731
    case = lab.Case(limits, [(10**6 * i, prompt(i % 4)) for i in range(8)])
    outcome = simulate(with_tier(case, OffloadLimits(1, 0, 10**6)), case.clients(), check=True)
    assert outcome.totals["offload_loaded_blocks"] == 0
