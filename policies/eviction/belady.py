"""Belady's bound: evict what is needed furthest in the future."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key
from .future import NextUse


@eviction("belady")
@dataclass(slots=True)
class Belady(Eviction):
    """The block whose next use lies furthest ahead: a bound, since it reads the future.

    Belady, "A study of replacement algorithms for a virtual-storage computer" (IBM Systems
    Journal 5(2), 1966). Among equals the deepest leaves first, so that what stays is always a
    prefix. It is refused where the stream of requests is not known beforehand.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, oracle=True)
    observes: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"key", "position"})

    _future: NextUse | None = field(default=None, init=False, repr=False, compare=False)
    _now_index: int = field(default=-1, init=False, repr=False, compare=False)

    def attach(self, future: NextUse) -> None:
        self._future = future

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        if self._future is None:
            raise InputError(
                "eviction belady reads the future, and the requests of this run are not known "
                "beforehand",
                help="replay a trace with it (infersim cache TRACE), or take another policy",
            )
        self.on_insert(block, request)
        return (-self._future.next_use(block.key, self._now_index), -block.position)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        """Now is the latest request admitted, whichever lets go of its blocks first."""
        if request is not None and request.id > self._now_index:
            self._now_index = request.id

    on_hit = on_insert
