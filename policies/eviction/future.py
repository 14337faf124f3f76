"""What an oracle is told: when each block is used next."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from math import inf
from typing import Protocol


class NextUse(Protocol):
    """The future of a stream of requests that is known beforehand."""

    def next_use(self, block_key: int, now_index: int) -> float:
        """Index of the first request after *now_index* that has the block; infinity for none."""


class RecordedUses:
    """The future read from a recorded stream.

    Args:
        stream: the block keys (`CachedBlock.key`) of every request, in order of `Request.id`.
    """

    def __init__(self, stream: Iterable[Iterable[int]]) -> None:
        self._uses: dict[int, list[int]] = {}
        for index, keys in enumerate(stream):
            for key in keys:
                self._uses.setdefault(key, []).append(index)

    def next_use(self, block_key: int, now_index: int) -> float:
        """As `NextUse.next_use`; O(log uses of the block)."""
        uses = self._uses.get(block_key, ())
        at = bisect_right(uses, now_index)
        return uses[at] if at < len(uses) else inf
