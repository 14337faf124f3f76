"""Keep an agent's KV while its tool runs."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import PS_PER_S, CachedBlock, Picoseconds, Promise, Request
from .base import Eviction, Key

EXPIRED, UNPROTECTED, PROTECTED = -1, 0, 1


@eviction("session-ttl")
@dataclass(slots=True)
class SessionTtl(Eviction):
    """Least recently used, but KV of an agent that waits for its tool stays for a time to live.

    After Continuum (Li et al., arXiv:2511.02230), which pins the KV of a request that ends in a
    tool call for a time to live. Here a request that says how long its client will be away
    (`Request.tool_time_s`) protects its blocks for factor × that time, at least `min_s` and at
    most `max_s`. Protected blocks leave last, the earliest expiry first; the others, and those
    whose time is up, leave in order of becoming free. Without such requests this is lru.
    With `expired_first` what has expired leaves before all else, as where expiry frees the KV.

    Attributes:
        factor: time to live as a multiple of the predicted tool time; above 0.
        min_s: shortest time to live, seconds.
        max_s: longest time to live, seconds; at least `min_s`.
        expired_first: an agent that is late is taken to be gone.
    """

    promise: ClassVar[Promise] = Promise(dynamic=True, exportable=True, tail_first=True)
    reads: ClassVar[frozenset[str]] = frozenset()

    factor: float = 2.0
    min_s: float = 1.0
    max_s: float = 300.0
    expired_first: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.expired_first, bool):
            raise InputError(
                f"expired_first of session-ttl ({self.expired_first!r}) must be true or false"
            )
        for name in ("factor", "min_s", "max_s"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not isfinite(value) or value < 0:
                raise InputError(
                    f"{name} of session-ttl ({value!r}) must be a finite number, 0 or more"
                )
        if self.factor == 0:
            raise InputError(f"factor of session-ttl ({self.factor!r}) must be above 0")
        if self.max_s < self.min_s:
            raise InputError(
                f"max_s of session-ttl ({self.max_s!r}) must not be below min_s ({self.min_s!r})"
            )

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        if request is None or request.tool_time_s < 0:
            return (UNPROTECTED,)
        ttl_s = min(max(self.factor * request.tool_time_s, self.min_s), self.max_s)
        return (PROTECTED, now + round(ttl_s * PS_PER_S)) if ttl_s > 0 else (UNPROTECTED,)

    def next_key(self, key: Key) -> tuple[Picoseconds, Key] | None:
        after = EXPIRED if self.expired_first else UNPROTECTED
        return (key[1], (after,)) if key[0] == PROTECTED else None
