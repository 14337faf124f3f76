"""The same cluster with step times or KV blocks a little off, to see what a result rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ...sim.cost.scaled import ScaledCost as ScaledCost
from ...sim.state.config import ClusterConfig, PoolConfig

LEAST_KV_BLOCKS = 1


class Change(NamedTuple):
    """Factors on every step time and on the KV blocks of every replica."""

    name: str
    step_time: float = 1.0
    kv_blocks: float = 1.0


#: what every comparison is printed with
CHANGES = (
    Change("step time +1 %", step_time=1.01),
    Change("step time −1 %", step_time=0.99),
    Change("KV blocks +5 %", kv_blocks=1.05),
    Change("KV blocks −5 %", kv_blocks=0.95),
)


def changed(config: ClusterConfig, change: Change) -> ClusterConfig:
    """*config* with *change*; a context limit that no longer fits in the KV is cut to it."""
    return replace(config, pools=tuple(_pool(pool, change) for pool in config.pools))


def _pool(pool: PoolConfig, change: Change) -> PoolConfig:
    limits = pool.limits
    blocks = max(LEAST_KV_BLOCKS, round(limits.kv_blocks * change.kv_blocks))
    longest = min(limits.max_model_len, blocks * limits.block_size)
    cost = pool.cost if change.step_time == 1 else ScaledCost(pool.cost, change.step_time)
    limits = replace(limits, kv_blocks=blocks, max_model_len=longest)
    return replace(pool, cost=cost, limits=limits)
