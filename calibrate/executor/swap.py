"""Swap space whose slots are real memory."""

from __future__ import annotations

from ...sim.state.config import PoolConfig
from ...sim.state.sequence import Sequence
from ...sim.state.swap import SwapSpace
from .runner import StepRunner


class DeviceSwap(SwapSpace):
    """Copies KV as soon as it is decided, so that nothing is written to its blocks before.

    What that takes on a virtual clock is the link's, as in the simulator.

    Args:
        pool: has swap space.
        runner: of the replica.
    """

    def __init__(self, pool: PoolConfig, runner: StepRunner) -> None:
        limits, size = pool.swap, pool.limits.block_size
        assert limits is not None
        super().__init__(
            limits.blocks, size, pool.block_bytes, limits.latency_ps, limits.bytes_per_s
        )
        self._runner = runner

    def out(self, seq: Sequence) -> bool:
        """Copy what *seq* has computed to the host; False when there is no room for it."""
        there = super().out(seq)
        if there:
            moves = list(zip(seq.table, self.held[seq], strict=False))
            self._runner.swap_blocks(out=True, moves=moves)
        return there

    def back(self, seq: Sequence) -> None:
        """Copy it to the blocks that *seq* holds now."""
        moves = list(zip(self.held[seq], seq.table, strict=False))
        super().back(seq)
        self._runner.swap_blocks(out=False, moves=moves)
