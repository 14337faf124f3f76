"""Least recently used, as vLLM's free queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("lru")
@dataclass(slots=True)
class Lru(Eviction):
    """The block that has been free for longest; a prompt loses its tail first (vLLM 0.33)."""

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True, tail_first=True)
    reads: ClassVar[frozenset[str]] = frozenset()

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return ()
