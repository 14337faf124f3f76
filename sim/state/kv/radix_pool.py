"""KV of one replica behind SGLang's radix tree."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from ....policies.errors import InfersimError
from ....policies.eviction.base import Eviction
from ....policies.eviction.lru import Lru
from ....policies.types import Picoseconds
from ..sequence import Sequence
from .face import Hit
from .radix import RadixIndex
from .tree import Node, Slots

_NO_HIT = Hit(0, 0, False, None)


class RadixPool:
    """Blocks that requests own, and blocks in the tree that requests hold or nobody does.

    What a request computes is its own until it is put in the tree: when its prompt is computed,
    between two chunks of it, and when it has ended (`checkpoint`). What is in the tree already is
    then given back: equal prefixes are stored once. Eviction takes whole leaves of the tree, and
    may take more than was asked. Method: sglang 0.5.23 `mem_cache/unified_radix_cache.py` and
    `mem_cache/allocation.py`.

    Args:
        blocks: usable blocks (SGLang's pages).
        block_size: tokens in a block (SGLang's page_size).
        eviction: ranks leaves of the tree that nobody holds.
        caching: False is SGLang's disable_radix_cache.
        ids: know which block is which, as a device must; else only how many there are.
    """

    prefix_index = "radix"
    displaced = False
    frontier = 0

    def __init__(
        self,
        blocks: int,
        block_size: int,
        eviction: Eviction,
        *,
        caching: bool = True,
        ids: bool = False,
    ) -> None:
        self.total, self.block_size, self.caching = blocks, block_size, caching
        self.index = RadixIndex(block_size, eviction)
        self._eviction = eviction
        self.evicted = 0
        #: keys that turn with time are looked at step by step
        self.lazy = not ids and not eviction.promise.dynamic
        self.uneven = True
        self._stamps = type(eviction) is Lru
        self._ids = ids
        self._blank = _Numbered(blocks) if ids else _Counted(blocks)
        self._group_blocks = 0  # taken by the decode group and not yet by its members

    @property
    def free(self) -> int:
        """Blocks that no request holds, cached ones included."""
        return self._blank.left + self.index.evictable

    @property
    def cached_idle(self) -> int:
        """Free blocks that still hold reusable KV."""
        return self.index.evictable

    @property
    def now(self) -> Picoseconds:
        """Set by the host before each step; eviction keys may use it."""
        return self.index.now

    @now.setter
    def now(self, now: Picoseconds) -> None:
        self.index.now = now

    # ---- lookup ---------------------------------------------------------------------------------

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""
        if not self.caching:
            return _NO_HIT
        blocks, idle = self.index.peek(seq.chain, limit_tokens // self.block_size)
        return Hit(blocks, idle, False, None)

    def visit(self, seq: Sequence, limit_tokens: int) -> Hit:
        """As `match`, and what is found was used just now."""
        hit = self.match(seq, limit_tokens)
        if self.caching:
            self.index.match(seq.chain, limit_tokens // self.block_size)
        return hit

    def touch(self, seq: Sequence) -> None:
        """A request in line keeps its prefix young, where the youngest stays longest."""
        if self._stamps and self.caching:
            self.index.match(seq.chain, seq.known // self.block_size)

    def by_weight(self, seqs: Seq[Sequence]) -> list[int]:
        """Indices of waiting requests in SGLang's dfs-weight order of the tree."""
        size = self.block_size
        return self.index.by_weight(
            [self.index.end_of(seq.chain, seq.known // size) for seq in seqs]
        )

    # ---- holding and letting go -----------------------------------------------------------------

    def acquire(self, seq: Sequence, hit: Hit | None, blocks: int) -> None:
        """Hold the hit and as many new blocks as make *blocks* in all; they must be free."""
        if hit is not None and hit.blocks:
            node = seq.node = self.index.match(seq.chain, hit.blocks)
            self.index.lock(node)
            seq.blocks = seq.committed = node.end
            if self._ids:
                seq.table = _slots(node)
        new = blocks - seq.blocks
        if new > 0:
            slots = self._take(new)
            seq.blocks = blocks
            if self._ids:
                seq.table.extend(slots)

    def _take(self, blocks: int) -> Slots:
        self.make_room(blocks)
        if blocks > self._blank.left:
            raise InfersimError(f"{blocks} KV blocks taken, {self._blank.left} were free")
        return self._blank.take(blocks)

    def make_room(self, blocks: int) -> None:
        """Let cached KV go until *blocks* blocks hold none, or no more of it may go."""
        short = blocks - self._blank.left
        if short > 0:
            for node in self.index.evict(short):
                self._blank.give(node.slots)
                self.evicted += node.blocks

    def release(self, seq: Sequence) -> None:
        """Let go of everything; what is not in the tree is lost."""
        own = seq.blocks - seq.committed
        self._blank.give(seq.table[seq.committed :] if self._ids else range(own))
        if seq.node is not None:
            self.index.unlock(seq.node, seq.request)
        seq.node = None
        seq.table = []
        seq.blocks = seq.committed = seq.inserted = 0

    # ---- the prefix index -----------------------------------------------------------------------

    def commit(self, seq: Sequence, tokens: int) -> None:
        """Nothing: KV enters the tree when it is computed (`checkpoint`)."""

    def checkpoint(self, seq: Sequence, tokens: int) -> None:
        """Put the full blocks among the first *tokens*, computed by now, into the tree."""
        if not self.caching or not seq.blocks:
            return
        index, mine = self.index, seq.committed
        blocks = min(tokens // self.block_size, seq.blocks)
        if blocks < mine:
            return
        slots: Slots = seq.table[:blocks] if self._ids else range(blocks)
        importance = -seq.request.priority
        found = index.insert(
            seq.chain,
            blocks,
            slots,
            importance=importance,
            inserted=seq.inserted,
            request=seq.request,
        )
        seq.inserted = max(seq.inserted, blocks)
        prompt = seq.prompt_tokens // self.block_size
        if 0 < prompt < blocks:  # so that the answer can go without the prompt
            index.insert(
                seq.chain, prompt, slots[:prompt], importance=importance + 1, inserted=prompt
            )
        for tokens in self._eviction.cuts(seq.request):
            end = tokens // self.block_size
            if 0 < end < blocks:
                index.insert(seq.chain, end, slots[:end], importance=importance, inserted=end)
        index.lock(found.node)
        if seq.node is not None:
            index.unlock(seq.node)
        seq.node, seq.committed = (found.node if blocks else None), blocks
        if found.blocks > mine:
            self._blank.give(slots[mine : found.blocks])
            if self._ids:
                seq.table[: found.blocks] = _slots(found.node)[: found.blocks]

    # ---- the decode group -----------------------------------------------------------------------

    def reserve(self, blocks: int) -> None:
        """The decode group has taken *blocks* in all since it was empty."""
        if blocks > self._group_blocks:
            self.grow(blocks - self._group_blocks)

    def grow(self, blocks: int) -> None:
        """The decode group takes *blocks* more."""
        self._group_blocks += blocks
        self._take(blocks)

    def join(self, seq: Sequence) -> bool:
        """Always: its answer is its own until it ends."""
        return True

    def leave(self, seq: Sequence, blocks: int, committed: int) -> None:
        """*seq* leaves the group having taken *blocks* in it."""
        if self.lazy:
            self._group_blocks -= blocks
            seq.blocks += blocks

    def check(self) -> int:
        """Verify the pool's books (slow); how many blocks are held."""
        self.index.check()
        held = self.total - self.free
        if self._blank.left < 0 or held < self.index.protected + self._group_blocks:
            raise InfersimError(
                f"{self._blank.left} blank KV blocks, {self.index.evictable} cached and "
                f"{self.index.protected} held in the tree do not fit in {self.total}"
            )
        return held


class _Counted:
    """Blocks without KV, of which only the number matters."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def take(self, blocks: int) -> Slots:
        """So many of them."""
        self.left -= blocks
        return range(blocks)

    def give(self, slots: Slots) -> None:
        """They hold nothing any more."""
        self.left += len(slots)


class _Numbered(_Counted):
    """Blocks without KV by their ids, which count from 1."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self._ids = list(range(blocks, 0, -1))

    def take(self, blocks: int) -> Slots:
        """So many of them, those given last first."""
        super().take(blocks)
        return [self._ids.pop() for _ in range(blocks)]

    def give(self, slots: Slots) -> None:
        """They hold nothing any more."""
        super().give(slots)
        self._ids.extend(reversed(slots))


def _slots(node: Node) -> list[int]:
    """The blocks from the root to the end of *node*."""
    parts: list[Slots] = []
    above: Node | None = node
    while above is not None:
        parts.append(above.slots)
        above = above.parent
    return [slot for part in reversed(parts) for slot in part]
