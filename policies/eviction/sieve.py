"""SIEVE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Key
from .queues import QueuedEviction, Queues


@eviction("sieve")
@dataclass(slots=True)
class Sieve(QueuedEviction):
    """A hand sweeps the blocks in order of insertion; one that was hit since its last visit stays.

    Nothing moves on a hit. Method: Zhang et al., NSDI'24. The sweep is in the keys: a block's lap
    is that in which the hand comes to it next.
    """

    promise: ClassVar[Promise] = Promise(queues=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"key", "inserted"})

    _visited: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    _lap: int = field(default=0, init=False, repr=False, compare=False)
    _hand: int = field(default=-1, init=False, repr=False, compare=False)

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (0, self._lap + (block.inserted <= self._hand), block.inserted)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self._visited.add(block.key)

    def on_evict(self, block: CachedBlock) -> None:
        self._visited.discard(block.key)

    def pick(self, queues: Queues) -> int:
        return 0

    def spare(self, block: CachedBlock, key: Key) -> Key | None:
        self._lap, self._hand = key[1], block.inserted
        if block.key not in self._visited:
            return None
        self._visited.remove(block.key)
        return (0, self._lap + 1, block.inserted)
