"""Mooncake's LengthAwareCache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("length-aware")
@dataclass(slots=True)
class LengthAware(Eviction):
    """The block with the fewest references, and of those the one deepest in its prompt.

    LengthAwareCache of Mooncake (Qin et al., arXiv:2407.00079, 4.2): LFU that prefers to lose
    blocks which occur later in requests. Counts are dropped at eviction; remaining ties leave
    in order of becoming free.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"hits", "position"})

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (block.hits, -block.position)
