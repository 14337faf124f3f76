"""By the importance of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("priority")
@dataclass(slots=True)
class PriorityEviction(Eviction):
    """What the least important requests used, then the least recently used (SGLang 0.5.23).

    A block is as important as the most important request that used it (`PriorityStrategy`);
    requests with a small `priority` are important.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"importance"})

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (block.importance,)
