"""First in, last out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("filo")
@dataclass(slots=True)
class Filo(Eviction):
    """What entered the cache last leaves first (SGLang 0.5.23 `FILOStrategy`)."""

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"inserted"})

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (-block.inserted,)
