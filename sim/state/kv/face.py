"""What a replica needs of a KV pool."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, NamedTuple, Protocol

from ....policies.errors import InputError
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

    Two indexes. The hash chain of vLLM has two implementations that agree on every decision (a
    test says so): `BlockPool` keeps block ids and takes any eviction; `ExtentPool` keeps runs of
    blocks, under LRU. The radix tree of SGLang is `RadixPool`.
    """

    block_size: int
    total: int  #: usable blocks
    now: Picoseconds  #: set by the host before each step; eviction keys may use it
    evicted: int  #: blocks that lost reusable KV, so far
    lazy: bool  #: growth of the decode group is booked as a number (`reserve`)
    displaced: bool  #: what a group member fills next is cached already: dissolve the group
    frontier: int  #: steps below this have put their KV in the index (decode group)
    prefix_index: str  #: which it keeps, as `EngineLimits` calls it
    uneven: bool  #: eviction takes more than was asked, so what is left cannot be computed ahead

    @property
    def free(self) -> int:
        """Blocks that no sequence holds, cached ones included."""

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""

    def visit(self, seq: Sequence, limit_tokens: int) -> Hit:
        """As `match`, and what is found was used just now (radix; a hash chain notes nothing)."""

    def touch(self, seq: Sequence) -> None:
        """A request in line keeps its prefix young (radix under LRU)."""

    def by_weight(self, seqs: Seq[Sequence]) -> list[int]:
        """Indices of waiting requests in SGLang's dfs-weight order of the tree.

        Raises:
            InputError: the index is no tree.
        """

    def make_room(self, blocks: int) -> None:
        """Let cached KV go until *blocks* blocks hold none (radix; others do it as they take)."""

    def checkpoint(self, seq: Sequence, tokens: int) -> None:
        """The first *tokens* are computed: index them (radix; others did it when scheduled)."""

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


class HashChain:
    """What vLLM's index has no use for, of the `KVPool`s that keep one."""

    prefix_index = "hash-chain"
    uneven = False

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """See `KVPool.match`."""
        raise NotImplementedError

    def visit(self, seq: Sequence, limit_tokens: int) -> Hit:
        """As `match`: lookups leave no trace."""
        return self.match(seq, limit_tokens)

    def touch(self, seq: Sequence) -> None:
        """Nothing: blocks are ranked when they become free."""

    def by_weight(self, seqs: Seq[Sequence]) -> list[int]:
        """There is no tree to go through."""
        raise InputError(
            "dfs-weight orders requests by a radix tree, and this prefix index is a hash chain",
            help="take prefix_index: radix, or another schedule_policy",
        )

    def make_room(self, blocks: int) -> None:
        """Nothing: blocks are evicted one by one, as they are taken."""

    def checkpoint(self, seq: Sequence, tokens: int) -> None:
        """Nothing: blocks were indexed when their step was planned."""
