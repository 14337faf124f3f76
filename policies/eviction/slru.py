"""Segmented LRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("slru")
@dataclass(slots=True)
class Slru(Eviction):
    """Least recently used, those that were found again last of all (SGLang 0.5.23 `SLRUStrategy`).

    The two segments of Karedla, Love and Wherry (IEEE Computer 27(3), 1994) without a size of
    their own: what has been found often enough stays protected until it is evicted.

    Attributes:
        protected_threshold: uses, the first included, from which on it is protected.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"hits"})

    protected_threshold: int = 2

    def __post_init__(self) -> None:
        if self.protected_threshold < 1:
            raise InputError(
                f"protected_threshold of slru ({self.protected_threshold}) must be at least 1"
            )

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (block.hits + 1 >= self.protected_threshold,)
