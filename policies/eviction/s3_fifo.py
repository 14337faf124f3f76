"""S3-FIFO."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Key
from .queues import QueuedEviction, Queues

SMALL, MAIN = 0, 1
MOST_HITS = 3


@eviction("s3-fifo")
@dataclass(slots=True)
class S3Fifo(QueuedEviction):
    """A small queue filters what is used once; the main queue gives second chances.

    New blocks enter the small queue. There, one that was hit twice goes on to the main queue,
    others leave and are remembered; a block that comes back while it is remembered enters the main
    queue at once. In the main queue each hit, up to three, is worth another round. Method: Yang et
    al., SOSP'23.

    Attributes:
        small: share of the small queue, above 0 and below 1.
    """

    promise: ClassVar[Promise] = Promise(queues=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"key", "inserted"})

    small: float = 0.1

    _hits: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _main: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ghosts: OrderedDict[int, None] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _entries: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.small < 1:
            raise InputError(f"small of s3-fifo must be between 0 and 1, found {self.small!r}")

    def _enter_main(self, block: CachedBlock) -> Key:
        self._entries += 1
        self._main[block.key] = self._entries
        return (MAIN, self._entries)

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        entry = self._main.get(block.key)
        return (SMALL, block.inserted) if entry is None else (MAIN, entry)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        key = block.key
        self._hits[key] = 0
        if key in self._ghosts:
            del self._ghosts[key]
            self._enter_main(block)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self._hits[block.key] = min(self._hits.get(block.key, 0) + 1, MOST_HITS)

    def on_evict(self, block: CachedBlock) -> None:
        key, ghosts = block.key, self._ghosts
        self._hits.pop(key, None)
        if self._main.pop(key, None) is None:
            ghosts[key] = None
            most = round((1 - self.small) * (len(self._hits) + 1))
            while len(ghosts) > most:
                ghosts.popitem(last=False)

    def pick(self, queues: Queues) -> int:
        lengths = queues.lengths
        small, main = lengths[SMALL], lengths[MAIN]
        return SMALL if small and (not main or small >= self.small * (small + main)) else MAIN

    def spare(self, block: CachedBlock, key: Key) -> Key | None:
        hits = self._hits.get(block.key, 0)
        if key[0] == MAIN and hits:
            self._hits[block.key] = hits - 1
            return self._enter_main(block)
        if key[0] == SMALL and hits > 1:
            self._hits[block.key] = 0
            return self._enter_main(block)
        return None
