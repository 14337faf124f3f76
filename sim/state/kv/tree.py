"""A node of the radix tree, and what an eviction policy may know of it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TypeAlias

from ....policies.types import CachedBlock, Request
from ..content import BLOCK_INDEX_BITS, Chain

#: KV slots of a run of blocks: their ids, or any range where nobody needs ids
Slots: TypeAlias = Seq[int]


class Node:
    """Blocks [first, end) of every prompt that agrees with `chain` up to there.

    Attributes:
        kids: nodes behind this one, by the link at the end of their first block, oldest first.
        locks: requests that hold it or something behind it.
        hits: how often it was inserted.
        importance: the largest that it was inserted with.
        used: stamp of its last use; `created`: of its insertion.
        reach: blocks from the root to the deepest that ever stood behind it.
        request: the last request that let go of it.
    """

    __slots__ = (
        "chain",
        "created",
        "end",
        "first",
        "hits",
        "importance",
        "kids",
        "locks",
        "parent",
        "reach",
        "request",
        "slots",
        "used",
    )

    def __init__(
        self,
        parent: Node | None,
        chain: Chain | None,
        first: int,
        end: int,
        *,
        slots: Slots,
        importance: int,
    ) -> None:
        self.parent, self.chain, self.first, self.end = parent, chain, first, end
        self.slots, self.importance = slots, importance
        self.kids: dict[int, Node] = {}
        self.locks = self.hits = self.used = self.created = 0
        self.reach = end
        self.request: Request | None = None

    @property
    def blocks(self) -> int:
        """How many blocks it spans."""
        return self.end - self.first

    def key(self, block_size: int) -> int:
        """The link at the end of its first block, under which its parent knows it."""
        assert self.chain is not None
        return self.chain.link_at((self.first + 1) * block_size - 1)

    def agreement(self, chain: Chain, most: int, block_size: int) -> int:
        """Where, in blocks and at most *most*, the node ends or *chain* leaves it."""
        end = min(self.end, most)
        mine = self.chain
        assert mine is not None
        if mine is chain or end <= self.first:
            return end
        last = end * block_size - 1
        if mine.link_at(last) == chain.link_at(last):
            return end
        return chain.agrees(mine, last + 1) // block_size

    def cached(self, block_size: int) -> CachedBlock:
        """What a policy sees of it; the key is that of its last block."""
        assert self.chain is not None
        last = self.end - 1
        return CachedBlock(
            self.chain.link_at(self.end * block_size - 1) << BLOCK_INDEX_BITS | last,
            self.first,
            self.end - self.first,
            self.hits - 1,
            self.created,
            self.used,
            self.importance,
            self.reach,
            block_size,
            self.chain.media_tokens(self.first * block_size, self.end * block_size),
        )
