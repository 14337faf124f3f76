"""Belady's bound: evict what is needed furthest in the future."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar, Protocol

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


class NextUse(Protocol):
    """The future of a stream of requests that is known beforehand."""

    def next_use(self, block_key: int, now_index: int) -> float:
        """Index of the first request after *now_index* that has the block; infinity for none."""


class RecordedUses:
    """The future read from a recorded stream.

    Args:
        stream: the block keys of every request, in order of `Request.id`.
    """

    def __init__(self, stream: Iterable[Iterable[int]]) -> None:
        self._uses: dict[int, list[int]] = {}
        for index, keys in enumerate(stream):
            for key in keys:
                self._uses.setdefault(key, []).append(index)

    def next_use(self, block_key: int, now_index: int) -> float:
        """As `NextUse.next_use`."""
        uses = self._uses.get(block_key, ())
        at = bisect_right(uses, now_index)
        return uses[at] if at < len(uses) else inf


@eviction("belady")
@dataclass(slots=True)
class Belady(Eviction):
    """The block whose next use lies furthest ahead: a bound, since it reads the future.

    Belady, "A study of replacement algorithms for a virtual-storage computer" (IBM Systems
    Journal 5(2), 1966). Among equals the deepest leaves first, so that what stays is always a
    prefix. The host attaches the recorded future before the run and may leave out of the cache
    a block that would be the next to leave. It is refused where the stream is not fixed.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, oracle=True)
    observes: ClassVar[bool] = True

    _oracle: NextUse | None = field(default=None, init=False, repr=False, compare=False)
    _now_index: int = field(default=-1, init=False, repr=False, compare=False)

    def attach(self, oracle: NextUse) -> None:
        """Give it the future; indices are `Request.id`, or the oracle keeps its own position."""
        self._oracle = oracle

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        if self._oracle is None:
            raise InputError(
                "eviction belady needs to know the future, and this run has no recorded stream",
                help="replay a trace (infersim cache, or an open-loop trace workload), "
                "or take another eviction policy",
            )
        self._see(request)
        return (-self._oracle.next_use(block.key, self._now_index), -block.position)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        self._see(request)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self._see(request)

    def _see(self, request: Request | None) -> None:
        """Now is the latest request admitted, whichever lets go of its blocks first."""
        if request is not None and request.id > self._now_index:
            self._now_index = request.id
