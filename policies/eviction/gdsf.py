"""GreedyDual-Size-Frequency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("gdsf")
@dataclass(slots=True)
class Gdsf(Eviction):
    """The block with the least value clock + references × cost / size, which ages (GDSF).

    Cherkasova, "Improving WWW Proxies Performance with GreedyDual-Size-Frequency Caching
    Policy" (HPL-98-69R1, 1998): the clock is the value of the unit that left last, so counts
    from long ago are overtaken. A unit costs the tokens that must be computed again once it is
    gone. Counts and values never grow along a prompt, so what stands behind a unit has left
    before it or leaves with it: the cost is the unit's own tokens, as RAGCache (Jin et al.,
    arXiv:2404.12457) charges only the tokens that are not cached. Cost / size is then the same
    for all paged KV, and the value is clock + references: LFU with dynamic ageing.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    observes: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"key", "hits"})

    _clock: int = field(default=0, init=False, repr=False, compare=False)
    _values: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        value = self._clock + block.hits + 1
        self._values[block.key] = value
        return (value,)

    def on_evict(self, block: CachedBlock) -> None:
        self._clock = max(self._clock, self._values.pop(block.key, 0))
