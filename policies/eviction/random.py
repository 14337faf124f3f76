"""Random replacement, from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key

MASK = (1 << 64) - 1


@eviction("random")
@dataclass(slots=True)
class Random(Eviction):
    """Any free block, each with the same chance; the same seed gives the same choices.

    A block draws an exponential lifetime when it becomes free, counted from the lifetime that
    ran out last. Exponential lifetimes have no memory, so every eviction picks uniformly among
    all free blocks although keys never change. (Plain uniform draws would not: the cache would
    fill with lucky old blocks, and newcomers would leave at once.)

    Attributes:
        seed: of the draws; they are hashes of (seed, block, how many draws came before).
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    observes: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"key"})

    seed: int = 0
    _draws: int = field(default=0, init=False, repr=False, compare=False)
    _clock: float = field(default=0.0, init=False, repr=False, compare=False)
    _ends: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.seed) is not int or self.seed < 0:
            raise InputError(f"seed of random ({self.seed!r}) must be an integer, 0 or more")

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        word = mix(self.seed, block.key, self._draws)
        self._draws += 1
        end = self._clock - log(((word >> 11) + 1) * 2.0**-53)
        self._ends[block.key] = end
        return (end,)

    def on_evict(self, block: CachedBlock) -> None:
        self._clock = max(self._clock, self._ends.pop(block.key, 0.0))


def mix(seed: int, block: int, draw: int) -> int:
    """64 bits: the finalizer of SplitMix64 (Steele, Lea and Flood 2014) over the three numbers."""
    word = seed * 0x9E3779B97F4A7C15 + block * 0xD1342543DE82EF95 + draw * 0xDA942042E4DD58B5 & MASK
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)
