"""Tail-optimized LRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key


@eviction("tlru")
@dataclass(slots=True)
class Tlru(Eviction):
    """Least recently used, but first what no next turn's time to first token needs (T-LRU).

    Zhang et al., arXiv:2510.15152, as SGLang 0.5.23 `TLRUStrategy`: a conversation of L tokens
    whose next prompt adds Q meets its limit as long as L + Q - threshold of them are cached.
    What lies behind that leaves before anything else; then least recently used.

    Attributes:
        threshold: tokens that a prefill computes within the limit on time to first token.
        next_prompt_estimate: tokens Q that the next prompt is expected to add.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)
    reads: ClassVar[frozenset[str]] = frozenset({"reach", "position", "block_size"})

    threshold: int = 0
    next_prompt_estimate: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "next_prompt_estimate"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} of tlru ({getattr(self, name)}) must not be negative")

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        length = block.reach * block.block_size
        budget = max(length + self.next_prompt_estimate - self.threshold, 0)
        return (block.position * block.block_size < budget,)
