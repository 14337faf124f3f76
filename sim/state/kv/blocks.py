"""KV block by block: ids, reference counts, any eviction policy (vLLM 0.33 `block_pool.py`)."""

from __future__ import annotations

from ....policies.errors import InfersimError
from ....policies.eviction.base import Eviction, Key
from ....policies.types import CachedBlock, Picoseconds
from ..content import BLOCK_INDEX_BITS
from ..sequence import Sequence
from .face import HashChain, Hit
from .idle import IdleOrder, QueuedOrder

_NO_HIT = Hit(0, 0, False, ())
_POSITION = (1 << BLOCK_INDEX_BITS) - 1
_UNUSED = -(1 << 62)  # no request has used it


class BlockPool(HashChain):
    """One entry, one reference count and one place in the order of eviction per block.

    Free blocks without a hash are reused first, last freed first; then cached blocks in the order
    of the eviction policy. Ids count from 1, as vLLM keeps block 0 for padding.

    Args:
        blocks: usable blocks.
        block_size: tokens in a block.
        eviction: ranks cached blocks that nobody holds.
        caching: False turns the prefix index off.
    """

    lazy = False
    displaced = False

    def __init__(
        self, blocks: int, block_size: int, eviction: Eviction, *, caching: bool = True
    ) -> None:
        self.total = self.free = blocks
        self.block_size = block_size
        self.now: Picoseconds = 0
        self.frontier = 0
        self.evicted = 0
        self.evicted_keys: list[int] | None = None  #: log of evictions, when set to a list
        self.stored: list[tuple[Sequence, int, int]] | None = None  #: log of commits, likewise
        self.filled: list[tuple[int, int]] | None = None  #: (key, block) of them, likewise
        self.caching = caching
        self._eviction = eviction
        self._blank: list[int] = []  # freed blocks without a hash, next to reuse last
        self._fresh = 1  # ids from here on were never used
        self._ref: list[int] = [0]
        self._key: list[int | None] = [None]
        self._hits: list[int] = [0]
        self._inserted: list[int] = [0]
        self._importance: list[int] = [_UNUSED]
        self._reach: list[int] = [0]
        self._media: list[int] = [0]
        self._insertions = self._releases = 0
        self._index: dict[int, int] = {}  # key -> its earliest block
        self._twins: dict[int, list[int]] = {}  # key -> later blocks with the same content
        self._idle: IdleOrder[int] | QueuedOrder[int] = (
            QueuedOrder(eviction, self._cached) if eviction.promise.queues else IdleOrder(eviction)
        )

    # ---- lookup ---------------------------------------------------------------------------------

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""
        if not self.caching:
            return _NO_HIT
        index, ref = self._index, self._ref
        path: list[int] = []
        idle = 0
        for key in seq.chain.block_keys(0, limit_tokens // self.block_size, self.block_size):
            block = index.get(key)
            if block is None:
                break
            path.append(block)
            if not ref[block]:
                idle += 1
        return Hit(len(path), idle, False, path)

    # ---- holding and letting go -----------------------------------------------------------------

    def acquire(self, seq: Sequence, hit: Hit | None, blocks: int) -> None:
        """Hold the hit and as many new blocks as make *blocks* in all; they must be free."""
        if hit is not None and hit.blocks:
            self._touch(seq, hit)
        table = seq.table
        for _ in range(blocks - len(table)):
            table.append(self._take())
        seq.blocks = len(table)

    def _touch(self, seq: Sequence, hit: Hit) -> None:
        ref, hits, idle = self._ref, self._hits, self._idle
        path: list[int] = hit.path
        self.free -= hit.idle
        for block in path:
            if not ref[block]:
                idle.remove(block)
            ref[block] += 1
            hits[block] += 1
        if self._eviction.observes:
            for block in path:
                self._eviction.on_hit(self._cached(block), seq.request)
        seq.table.extend(path)
        seq.committed = hit.blocks

    def _take(self) -> int:
        self.free -= 1
        if self._blank:
            block = self._blank.pop()
        elif self._fresh <= self.total:
            block = self._fresh
            self._fresh += 1
            self._ref.append(1)
            self._key.append(None)
            self._hits.append(0)
            self._inserted.append(0)
            self._importance.append(_UNUSED)
            self._reach.append(0)
            self._media.append(0)
            return block
        else:
            block = self._idle.pop(self.now)
            self._unindex(block)
            self.evicted += 1
        self._ref[block] = 1
        return block

    def release(self, seq: Sequence) -> None:
        """Let go of everything, tail first."""
        ref, keys, rank = self._ref, self._key, self._eviction.key
        request, now = seq.request, self.now
        importance, reach, length = self._importance, self._reach, len(seq.table)
        self._releases += 1
        blanks: list[int] = []
        idle: list[tuple[int, Key]] = []
        for block in reversed(seq.table):
            ref[block] -= 1
            if importance[block] < -request.priority:
                importance[block] = -request.priority
            if reach[block] < length:
                reach[block] = length
            if ref[block]:
                continue
            self.free += 1
            if keys[block] is None:
                blanks.append(block)
            else:
                idle.append((block, rank(self._cached(block), request, now)))
        self._idle.add_all(idle)
        self._blank.extend(reversed(blanks))
        seq.table = []
        seq.blocks = seq.committed = 0

    def _cached(self, block: int) -> CachedBlock:
        key = self._key[block]
        assert key is not None
        return CachedBlock(
            key,
            key & _POSITION,
            1,
            self._hits[block],
            self._inserted[block],
            self._releases,
            self._importance[block],
            self._reach[block],
            self.block_size,
            self._media[block],
        )

    # ---- the prefix index -----------------------------------------------------------------------

    def commit(self, seq: Sequence, tokens: int) -> None:
        """Put the full blocks among the first *tokens* into the index."""
        first, last = seq.committed, min(tokens // self.block_size, len(seq.table))
        if last <= first or not self.caching:
            return
        observes, size, chain = self._eviction.observes, self.block_size, seq.chain
        keys = chain.block_keys(first, last, size)
        for at, (block, key) in enumerate(zip(seq.table[first:last], keys, strict=True), first):
            self._key[block] = key
            self._hits[block] = 0
            self._media[block] = chain.media_tokens(at * size, (at + 1) * size)
            self._importance[block], self._reach[block] = -seq.request.priority, 0
            self._insertions += 1
            self._inserted[block] = self._insertions
            if self._index.setdefault(key, block) != block:
                self._twins.setdefault(key, []).append(block)
            if observes:
                self._eviction.on_insert(self._cached(block), seq.request)
        seq.committed = last
        if self.stored is not None:
            self.stored.append((seq, first, last))
        if self.filled is not None:
            self.filled.extend(zip(keys, seq.table[first:last], strict=True))

    def key_of(self, block: int) -> int | None:
        """What the index holds in *block*; None: nothing."""
        return self._key[block]

    def _unindex(self, block: int) -> None:
        key = self._key[block]
        assert key is not None
        if self.evicted_keys is not None:
            self.evicted_keys.append(key)
        if self._eviction.observes:
            self._eviction.on_evict(self._cached(block))
        self._key[block] = None
        twins = self._twins.get(key)
        if twins is None:
            del self._index[key]
            return
        if self._index[key] == block:
            self._index[key] = twins.pop(0)
        else:
            twins.remove(block)
        if not twins:
            del self._twins[key]

    # ---- the decode group: every member grows block by block ------------------------------------

    def reserve(self, blocks: int) -> None:
        """Nothing to book: here members take their blocks one by one."""

    grow = reserve

    def join(self, seq: Sequence) -> bool:
        """Always: the replica grows members one by one."""
        return True

    def leave(self, seq: Sequence, blocks: int, committed: int) -> None:
        """Nothing to settle."""

    def check(self) -> int:
        """Verify the pool's books (slow); how many blocks are held."""
        held = sum(1 for count in self._ref[1:] if count)
        unused = self.total + 1 - self._fresh
        if (
            held + self.free != self.total
            or len(self._blank) + unused + len(self._idle) != self.free
            or min(self._ref) < 0
        ):
            raise InfersimError(
                f"{held} KV blocks held and {self.free} free do not make {self.total}"
            )
        return held

    @property
    def cached_idle(self) -> int:
        """Free blocks that still hold reusable KV."""
        return len(self._idle)

    def queue(self) -> list[tuple[int, bool]]:
        """Free blocks in order of reuse, each with whether it holds reusable KV."""
        blanks = [(block, False) for block in reversed(self._blank)]
        fresh = [(block, False) for block in range(self._fresh, self.total + 1)]
        return [*blanks, *fresh, *((block, True) for block in self._idle.units())]
