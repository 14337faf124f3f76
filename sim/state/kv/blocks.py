"""KV block by block: ids, reference counts, any eviction policy (vLLM 0.33 `block_pool.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby

from ....policies.errors import InfersimError
from ....policies.eviction.base import Eviction
from ....policies.types import CachedBlock, Picoseconds, Request
from ..content import BLOCK_INDEX_BITS
from ..sequence import Sequence
from .face import HashChain, Hit
from .fixed import FixedOrder, QueuedOrder
from .idle import IdleOrder

_NO_HIT = Hit(0, 0, False, ())
_POSITION = (1 << BLOCK_INDEX_BITS) - 1
_UNUSED = -(1 << 62)  # no request has used it
_ALIKE = frozenset({"blocks", "block_size", "used"})  # fields that a request's blocks agree in
_NAMED = frozenset({"key", "inserted", "blocks", "block_size"})  # all that queues look at
_unit = tuple.__new__  # a named tuple's own constructor is Python code


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
        reads = eviction.reads
        self._tells_apart = reads is None or not reads <= _ALIKE | {"hits"}
        self._by_hits = reads is not None and "hits" in reads
        self._counts_use = reads is None or not reads.isdisjoint({"importance", "reach"})
        self._counts_media = reads is None or "media_tokens" in reads
        self._cached = self._named if reads is not None and reads <= _NAMED else self._described
        self._idle: IdleOrder[int] | FixedOrder[int] | QueuedOrder[int] = FixedOrder()
        if eviction.promise.queues:
            self._idle = QueuedOrder(eviction, self._cached)
        elif eviction.promise.dynamic:
            self._idle = IdleOrder(eviction)

    # ---- lookup ---------------------------------------------------------------------------------

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""
        if not self.caching:
            return _NO_HIT
        index, ref = self._index, self._ref
        path: list[int] = []
        keys = seq.chain.block_keys(0, limit_tokens // self.block_size, self.block_size)
        with suppress(KeyError):
            path.extend(map(index.__getitem__, keys))
        return Hit(len(path), [ref[block] for block in path].count(0), False, path)

    # ---- holding and letting go -----------------------------------------------------------------

    def acquire(self, seq: Sequence, hit: Hit | None, blocks: int) -> None:
        """Hold the hit and as many new blocks as make *blocks* in all; they must be free."""
        if hit is not None and hit.blocks:
            self._touch(seq, hit)
        table = seq.table
        if blocks > len(table):
            table.extend(self._take(blocks - len(table)))
        seq.blocks = len(table)

    def _touch(self, seq: Sequence, hit: Hit) -> None:
        ref, hits = self._ref, self._hits
        path: list[int] = hit.path
        self.free -= hit.idle
        self._idle.remove_all([block for block in path if not ref[block]])
        for block in path:
            ref[block] += 1
            hits[block] += 1
        if self._eviction.observes:
            for block in path:
                self._eviction.on_hit(self._cached(block), seq.request)
        seq.table.extend(path)
        seq.committed = hit.blocks

    def _take(self, blocks: int) -> list[int]:
        """So many free blocks, those without KV first."""
        self.free -= blocks
        blank, ref = self._blank, self._ref
        taken: list[int] = []
        if blank:
            taken = blank[: -blocks - 1 : -1]
            del blank[-blocks:]
        new = min(blocks - len(taken), self.total + 1 - self._fresh)
        if new:
            taken.extend(range(self._fresh, self._fresh + new))
            self._fresh += new
            self._enter(new)
        if len(taken) < blocks:
            taken.extend(self._evict(blocks - len(taken)))
        for block in taken:
            ref[block] = 1
        return taken

    def _enter(self, blocks: int) -> None:
        """Lengthen the books by blocks that were never used."""
        self._key.extend([None] * blocks)
        self._importance.extend([_UNUSED] * blocks)
        for column in (self._ref, self._hits, self._media, self._inserted, self._reach):
            column.extend([0] * blocks)

    def _evict(self, blocks: int) -> Iterable[int]:
        self.evicted += blocks
        idle = self._idle
        if isinstance(idle, FixedOrder):  # nothing that a policy hears now changes who is next
            taken = idle.pop_all(blocks)
            for block in taken:
                self._unindex(block)
            return taken
        taken = []
        for _ in range(blocks):
            block = idle.pop(self.now)
            self._unindex(block)
            taken.append(block)
        return taken

    def release(self, seq: Sequence) -> None:
        """Let go of everything, tail first."""
        ref, keys = self._ref, self._key
        self._releases += 1
        if self._counts_use:
            self._count_use(seq)
        blanks: list[int] = []
        idle: list[int] = []
        for block in reversed(seq.table):
            ref[block] -= 1
            if ref[block]:
                continue
            if keys[block] is None:
                blanks.append(block)
            else:
                idle.append(block)
        self.free += len(blanks) + len(idle)
        self._rank(idle, seq.request)
        blanks.reverse()
        self._blank.extend(blanks)
        seq.table = []
        seq.blocks = seq.committed = 0

    def _count_use(self, seq: Sequence) -> None:
        """Note how important a request was, and how long, that used these blocks."""
        importance, reach = self._importance, self._reach
        mine, length = -seq.request.priority, len(seq.table)
        for block in seq.table:
            if importance[block] < mine:
                importance[block] = mine
            if reach[block] < length:
                reach[block] = length

    def _rank(self, blocks: list[int], request: Request) -> None:
        """Put what became idle into the order; one key for those that look alike to the policy."""
        rank, now, cached, idle = self._eviction.key, self.now, self._cached, self._idle
        if self._tells_apart:
            idle.add_all([(block, rank(cached(block), request, now)) for block in blocks])
        elif self._by_hits:
            for _, run in groupby(blocks, self._hits.__getitem__):
                alike = list(run)
                idle.add_alike(alike, rank(cached(alike[0]), request, now))
        elif blocks:
            idle.add_alike(blocks, rank(cached(blocks[0]), request, now))

    def _named(self, block: int) -> CachedBlock:
        """Content and age of a block only, twice as fast as all of it."""
        return _unit(
            CachedBlock,
            (self._key[block], 0, 1, 0, self._inserted[block], 0, 0, 0, self.block_size, 0),
        )

    def _described(self, block: int) -> CachedBlock:
        key = self._key[block]
        assert key is not None
        return _unit(
            CachedBlock,
            (
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
            ),
        )

    # ---- the prefix index -----------------------------------------------------------------------

    def commit(self, seq: Sequence, tokens: int) -> None:
        """Put the full blocks among the first *tokens* into the index."""
        first, last = seq.committed, min(tokens // self.block_size, len(seq.table))
        if last <= first or not self.caching:
            return
        table, request = seq.table[first:last], seq.request
        keys = seq.chain.block_keys(first, last, self.block_size)
        index, key_of, hits, inserted = self._index, self._key, self._hits, self._inserted
        self._describe(seq, first, last)
        observer = self._eviction if self._eviction.observes else None
        for number, (block, key) in enumerate(zip(table, keys, strict=True), self._insertions + 1):
            key_of[block], hits[block], inserted[block] = key, 0, number
            if index.setdefault(key, block) != block:
                self._twins.setdefault(key, []).append(block)
            if observer is not None:
                observer.on_insert(self._cached(block), request)
        self._insertions += last - first
        seq.committed = last
        if self.stored is not None:
            self.stored.append((seq, first, last))
        if self.filled is not None:
            self.filled.extend(zip(keys, table, strict=True))

    def _describe(self, seq: Sequence, first: int, last: int) -> None:
        """What a policy may want to know of new blocks *first*..*last*-1 of a request."""
        table = seq.table
        if self._counts_use:
            for block in table[first:last]:
                self._importance[block], self._reach[block] = -seq.request.priority, 0
        if self._counts_media:
            size, media_tokens = self.block_size, seq.chain.media_tokens
            for at in range(first, last):
                self._media[table[at]] = media_tokens(at * size, (at + 1) * size)

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
