"""What a replica needs of a KV pool."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ....policies.types import Picoseconds
from ..sequence import Sequence


class Hit(NamedTuple):
    """A cached prefix.

    Attributes:
        blocks: how many blocks of the prompt are cached.
        idle: how many of these nobody holds (they count against the free blocks when taken).
        may_grow: a running sequence may extend this hit by filling its next block.
        path: the pool's own.
    """

    blocks: int
    idle: int
    may_grow: bool
    path: Any


class KVPool(Protocol):
    """Blocks of one replica. allocated + free = total, always.

    Two implementations agree on every decision (a test says so): `BlockPool` keeps block ids and
    takes any eviction; `ExtentPool` keeps runs of blocks and takes those that promise
    `tail_first`.
    """

    block_size: int
    total: int  #: usable blocks
    free: int  #: blocks that no sequence holds, cached ones included
    now: Picoseconds  #: set by the host before each step; eviction keys may use it
    evicted: int  #: blocks that lost reusable KV, so far
    lazy: bool  #: growth of the decode group is booked as a number (`reserve`)
    displaced: bool  #: what a group member fills next is cached already: dissolve the group
    frontier: int  #: steps below this have put their KV in the index (decode group)

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""

    def acquire(self, seq: Sequence, hit: Hit | None, blocks: int) -> None:
        """Hold the hit and as many new blocks as make *blocks* in all; they must be free."""

    def commit(self, seq: Sequence, tokens: int) -> None:
        """Put the full blocks among the first *tokens* into the index."""

    def release(self, seq: Sequence) -> None:
        """Let go of everything, tail first."""

    def reserve(self, blocks: int) -> None:
        """The decode group has taken *blocks* in all since it was empty (lazy pools)."""

    def grow(self, blocks: int) -> None:
        """The decode group takes *blocks* more (lazy pools)."""

    def join(self, seq: Sequence) -> bool:
        """*seq* may enter the decode group: from here on it grows with the step index."""

    def leave(self, seq: Sequence, blocks: int, committed: int) -> None:
        """*seq* leaves the group having taken *blocks* in it, with *committed* blocks indexed."""

    def check(self) -> int:
        """Verify the pool's books (slow); how many blocks are held.

        Raises:
            InfersimError: they do not add up.
        """

    @property
    def cached_idle(self) -> int:
        """Free blocks that still hold reusable KV."""
