"""Swap space: host memory that the KV of preempted requests is copied to, and back from.

The rules are those of vLLM's first engine (0.6, `core/block_manager.py`, `worker/worker.py`): a
request is swapped whole, block by block, those that others hold too; its blocks on the device are
free at once. The copies of a step are issued before its kernels, on the same stream, so the step
begins when they are done. Blocks of its prefix that are cached on the device when it comes back are
shared, not taken anew, and are copied like the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...policies.errors import InfersimError
from ...policies.types import PS_PER_S, Picoseconds
from .config import PoolConfig
from .sequence import Sequence


class Swap(NamedTuple):
    """KV of a sequence that is copied before a step.

    Attributes:
        out: to the host; False: back.
        blocks: how many.
    """

    seq: Sequence
    out: bool
    blocks: int


class SwapSpace:
    """Which slots of the host hold whose KV. allocated + free = total, always.

    Args:
        blocks: how many it holds.
        block_size: tokens in one · `block_bytes`: what one takes on all GPUs of the replica.
        latency_ps, bytes_per_s: of the link to the host, in one direction.

    Attributes:
        outs, ins: sequences swapped so far, either way · `out_blocks`, `in_blocks`: their blocks.
        refused: how often there was no room, so that the KV was computed again.
        copying_ps: what the copies have delayed steps by.
    """

    def __init__(
        self, blocks: int, block_size: int, block_bytes: int, latency_ps: int, bytes_per_s: int
    ) -> None:
        self.total, self._block_size, self.block_bytes = blocks, block_size, block_bytes
        self._latency_ps, self._bytes_per_s = latency_ps, bytes_per_s
        self._fresh = 0  # slots from here on were never used
        self._free: list[int] = []
        self.held: dict[Sequence, list[int]] = {}
        self.outs = self.ins = self.out_blocks = self.in_blocks = self.refused = 0
        self.copying_ps: Picoseconds = 0
        self._moves: list[Swap] = []  # that no step has been charged for

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return len(self._free) + self.total - self._fresh

    def out(self, seq: Sequence) -> bool:
        """Copy what *seq* has computed to the host; False when there is no room for it."""
        blocks = self._blocks(seq)
        if blocks > self.free:
            self.refused += 1
            return False
        self.held[seq] = [self._slot() for _ in range(blocks)]
        self.outs += 1
        self.out_blocks += blocks
        self._move(seq, out=True, blocks=blocks)
        return True

    def _move(self, seq: Sequence, *, out: bool, blocks: int) -> None:
        self._moves.append(Swap(seq, out, blocks))
        seq.swapped_bytes += blocks * self.block_bytes

    def _blocks(self, seq: Sequence) -> int:
        return -(-seq.computed // self._block_size)

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._fresh += 1
        return self._fresh - 1

    def back(self, seq: Sequence) -> None:
        """Copy it to the blocks that *seq* holds now."""
        self._free.extend(reversed(self.held.pop(seq)))
        blocks = self._blocks(seq)  # fewer, if drafts that were under way are refused by now
        self.ins += 1
        self.in_blocks += blocks
        self._move(seq, out=False, blocks=blocks)

    def drop(self, seq: Sequence) -> None:
        """Forget what is here of *seq*, which has ended."""
        self._free.extend(reversed(self.held.pop(seq, ())))

    def begin(self) -> tuple[list[Swap], Picoseconds]:
        """A step begins: what is copied before it, in order, and the time that this takes."""
        moves, self._moves = self._moves, []
        took = self._copying_ps(moves, out=True) + self._copying_ps(moves, out=False)
        self.copying_ps += took
        return moves, took

    def _copying_ps(self, moves: list[Swap], *, out: bool) -> Picoseconds:
        blocks = sum(move.blocks for move in moves if move.out is out)
        if not blocks:
            return 0
        size_bytes = blocks * self.block_bytes
        return self._latency_ps - (-size_bytes * PS_PER_S // self._bytes_per_s)

    def check(self) -> int:
        """Verify the books (slow); how many slots are held.

        Raises:
            InfersimError: they do not add up.
        """
        slots = [slot for held in self.held.values() for slot in held]
        known = sorted([*slots, *self._free])
        if known != list(range(self._fresh)) or self._fresh > self.total:
            raise InfersimError(
                f"{len(slots)} slots of swap space held and {self.free} free do not make "
                f"{self.total}"
            )
        return len(slots)


def swap_space(pool: PoolConfig) -> SwapSpace | None:
    """The swap space of a replica of *pool*; None: it has none."""
    limits, size = pool.swap, pool.limits.block_size
    if limits is None:
        return None
    return SwapSpace(limits.blocks, size, pool.block_bytes, limits.latency_ps, limits.bytes_per_s)


def swapped(spaces: Iterable[SwapSpace | None]) -> dict[str, int]:
    """Totals of a run in which preempted requests are swapped; nothing without."""
    found = [space for space in spaces if space is not None]
    if not found:
        return {}
    return {
        "swapped_out": sum(one.outs for one in found),
        "swapped_in": sum(one.ins for one in found),
        "swap_out_bytes": sum(one.out_blocks * one.block_bytes for one in found),
        "swap_in_bytes": sum(one.in_blocks * one.block_bytes for one in found),
        "swap_refused": sum(one.refused for one in found),
        "swap_ps": sum(one.copying_ps for one in found),
    }
