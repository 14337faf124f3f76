"""First in, first out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("fifo")
@dataclass(slots=True)
class Fifo(Eviction):
    """The block that entered the cache first, whoever has used it since."""

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"inserted"})

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (block.inserted,)
