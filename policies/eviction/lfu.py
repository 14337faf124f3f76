"""Least frequently used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ..errors import UnknownNameError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key

Counting = Literal["forget", "global"]


@eviction("lfu")
@dataclass(slots=True)
class Lfu(Eviction):
    """The block with the fewest references; among equals, the one that is free for longest.

    As LFUCache of Mooncake (Qin et al., FAST'25); the paper leaves the counting open.

    Attributes:
        counting: "forget" drops a block's count when it is evicted, "global" counts every
            reference ever (memory grows with the distinct blocks of the run).
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)

    counting: Counting = "forget"
    _references: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.counting not in get_args(Counting):
            raise UnknownNameError("counting of lfu", self.counting, get_args(Counting))

    @property
    def observes(self) -> bool:  # type: ignore[override]
        """Only global counts outlive a block; the others are the cache's own."""
        return self.counting == "global"

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]
        """The cache's own count, or the name under which its own are kept."""
        return frozenset({"hits"} if self.counting == "forget" else {"key"})

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        if self.counting == "forget":
            return (block.hits,)
        return (self._references.get(block.key, 0),)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        self._references[block.key] = self._references.get(block.key, 0) + 1

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self.on_insert(block, request)

    def on_split(self, head: CachedBlock, tail: CachedBlock) -> None:
        self._references[head.key] = self._references.get(tail.key, 0)
