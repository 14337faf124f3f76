"""ARC."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Key
from .queues import QueuedEviction, Queues

RECENT, FREQUENT = 0, 1
_KEYS: tuple[Key, Key] = ((RECENT,), (FREQUENT,))


@eviction("arc")
@dataclass(slots=True)
class Arc(QueuedEviction):
    """Two queues in order of last use, for what was used once and oftener, in a learned proportion.

    What left either queue is remembered for a while: when it comes back, its queue was too short,
    and gets a larger share. Method: Megiddo and Modha, FAST'03. The share is learned when the block
    enters again, which is after room was made for it.
    """

    promise: ClassVar[Promise] = Promise(queues=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"key"})

    _cached: int = field(default=0, init=False, repr=False, compare=False)
    _most: int = field(default=0, init=False, repr=False, compare=False)
    _target: float = field(default=0.0, init=False, repr=False, compare=False)
    _frequent: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    _left_recent: OrderedDict[int, None] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _left_frequent: OrderedDict[int, None] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return _KEYS[block.key in self._frequent]

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        key, recent, frequent = block.key, self._left_recent, self._left_frequent
        self._cached += 1
        if self._cached > self._most:
            self._most = self._cached
        if key in recent:
            self._target = min(self._target + max(1.0, len(frequent) / len(recent)), self._most)
            del recent[key]
            self._frequent.add(key)
        elif key in frequent:
            self._target = max(self._target - max(1.0, len(recent) / len(frequent)), 0.0)
            del frequent[key]
            self._frequent.add(key)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self._frequent.add(block.key)

    def on_evict(self, block: CachedBlock) -> None:
        key, recent, frequent = block.key, self._left_recent, self._left_frequent
        cached = self._cached = self._cached - 1
        if key in self._frequent:
            self._frequent.remove(key)
            frequent[key] = None
        else:
            recent[key] = None
        while recent and cached - len(self._frequent) + len(recent) > self._most:
            recent.popitem(last=False)
        while frequent and cached + len(recent) + len(frequent) > 2 * self._most:
            frequent.popitem(last=False)

    def pick(self, queues: Queues) -> int:
        recent = queues.lengths[RECENT]
        too_long = recent > self._target or not queues.lengths[FREQUENT]
        return RECENT if recent and too_long else FREQUENT
