"""W-TinyLFU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Key
from .queues import QueuedEviction, Queues

WINDOW, PROBATION, PROTECTED = 0, 1, 2
_KEYS: tuple[Key, ...] = ((WINDOW,), (PROBATION,), (PROTECTED,))
REFERENCES_PER_BLOCK = 10  #: after so many references a cached block all counts are halved


@eviction("w-tinylfu")
@dataclass(slots=True)
class WTinyLfu(QueuedEviction):
    """What leaves a small window enters the cache only if it is asked for oftener than who leaves.

    Window and main part are in order of last use; in the main part, what was hit is protected.
    Counts are exact and halved now and then, where the paper sketches them. Method: Einziger et
    al., ACM TOS 2017.

    Attributes:
        window: share of the window, above 0 and below 1.
        protected: share of the main part that is protected, above 0 and below 1.
    """

    promise: ClassVar[Promise] = Promise(queues=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"key"})

    window: float = 0.01
    protected: float = 0.8

    _counts: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _references: int = field(default=0, init=False, repr=False, compare=False)
    _queue: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    #: whether the unit that was picked moves to the main part, and whether another leaves for it
    _goes_on: bool = field(default=False, init=False, repr=False, compare=False)
    _lost: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.window < 1 or not 0 < self.protected < 1:
            raise InputError(
                "window and protected of w-tinylfu must be between 0 and 1, "
                f"found {self.window!r} and {self.protected!r}"
            )

    def _count(self, key: int) -> None:
        counts = self._counts
        counts[key] = counts.get(key, 0) + 1
        self._references += 1
        if self._references >= REFERENCES_PER_BLOCK * (len(self._queue) or 1):
            self._references //= 2
            self._counts = {k: n // 2 for k, n in self._counts.items() if n > 1}

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return _KEYS[self._queue.get(block.key, WINDOW)]

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        key = block.key
        self._queue.setdefault(key, WINDOW)
        self._count(key)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        key = block.key
        self._count(key)
        if self._queue.get(key) == PROBATION:
            self._queue[key] = PROTECTED

    def on_evict(self, block: CachedBlock) -> None:
        self._queue.pop(block.key, None)

    def pick(self, queues: Queues) -> int:
        lengths = queues.lengths
        window, probation, protected = lengths[WINDOW], lengths[PROBATION], lengths[PROTECTED]
        self._goes_on = False
        if self._lost:  # the head of the main part, against who was let in
            return PROBATION
        main = probation + protected
        if protected > self.protected * main:
            self._goes_on = True
            return PROTECTED
        room = int(self.window * (window + main)) or 1
        if window > room:
            self._goes_on = True
        elif window == room and main:
            candidate, victim = queues.head(WINDOW).key, queues.head(PROBATION).key
            counts = self._counts
            self._goes_on = self._lost = counts.get(candidate, 0) > counts.get(victim, 0)
        return WINDOW if window >= room else PROBATION

    def spare(self, block: CachedBlock, key: Key) -> Key | None:
        if not self._goes_on:
            self._lost = False
            return None
        self._queue[block.key] = PROBATION
        return (PROBATION,)
