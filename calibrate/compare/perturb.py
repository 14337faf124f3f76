"""The same cluster with step times or KV blocks a little off, to see what a result rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from ...policies.types import Picoseconds
from ...sim.cost.base import DecodeLine, StepCost, StepShape
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


@dataclass(frozen=True)
class ScaledCost:
    """*cost* with every duration multiplied by *factor*, rounded to whole picoseconds."""

    cost: StepCost
    factor: float

    @property
    def source(self) -> str:
        """That of *cost*, and the factor."""
        return f"{self.cost.source} × {self.factor:g}"

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        """For pure decode on `decode_line`, so that both agree to the picosecond."""
        if shape.decodes and not shape.prefills and not shape.image_tokens:
            line = self.decode_line(shape.decodes, shape.decode_context_tokens)
            return line.base_ps + line.slope_ps * shape.decode_context_tokens
        return max(1, round(self.cost.duration_ps(shape) * self.factor))

    def decode_line(self, decodes: int, context_tokens: int) -> DecodeLine:
        """Base and slope are scaled, each rounded."""
        line = self.cost.decode_line(decodes, context_tokens)
        base_ps, slope_ps = round(line.base_ps * self.factor), round(line.slope_ps * self.factor)
        return DecodeLine(max(1, base_ps), slope_ps, line.until)

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        """Scaled and rounded."""
        return round(self.cost.prefill_ps(tokens, context_tokens) * self.factor)

    def joint_ps(self, tokens: int) -> Picoseconds:
        """Scaled and rounded."""
        return round(self.cost.joint_ps(tokens) * self.factor)


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
