"""Most recently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("mru")
@dataclass(slots=True)
class Mru(Eviction):
    """What was used last leaves first (SGLang 0.5.23 `MRUStrategy`); for loops over too much."""

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True, tail_first=True)
    reads: ClassVar[frozenset[str]] = frozenset({"used"})

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (-block.used,)
