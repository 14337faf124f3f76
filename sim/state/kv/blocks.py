"""KV block by block: ids, reference counts, any eviction policy (vLLM 0.33 `block_pool.py`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, islice, repeat, takewhile

from ....policies.errors import InfersimError
from ....policies.eviction.base import Eviction, hook
from ....policies.types import CachedBlock, Picoseconds, Request
from ..sequence import Sequence
from .face import HashChain, Hit
from .idle import IdleOrder
from .queued import QueuedOrder

_NO_HIT = Hit(0, 0, False, ())
_UNUSED = -(1 << 62)  # no request has used it
_ALIKE = frozenset({"blocks", "block_size", "used"})  # fields that a request's blocks agree in
_LATE = frozenset({"used", "importance", "reach"})  # fields that change when a request is done
_unit = tuple.__new__  # a named tuple's own constructor is Python code
_NOTHING = CachedBlock(0, 0, 1, 0, 0)  # the facts of a block that nobody asks about


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
        self._importance: list[int] = [_UNUSED]
        self._reach: list[int] = [0]
        self._facts: list[CachedBlock] = [_NOTHING]  # of each block, but for what changes late
        self._insertions = self._releases = 0
        self._index: dict[int, int] = {}  # key -> its earliest block
        self._twins: dict[int, list[int]] = {}  # key -> later blocks with the same content
        reads = eviction.reads
        self._tells_apart = reads is None or not reads <= _ALIKE | {"hits"}
        self._keeps_facts = self._tells_apart or eviction.observes
        self._on_insert, self._on_hit, self._on_evict = (
            hook(eviction, name) for name in ("on_insert", "on_hit", "on_evict")
        )
        self._counts_hits = reads is None or "hits" in reads
        self._counts_use = reads is None or not reads.isdisjoint({"importance", "reach"})
        self._counts_media = reads is None or "media_tokens" in reads
        self._cached: Callable[[int], CachedBlock] = self._described
        if reads is not None and reads.isdisjoint(_LATE) and self._keeps_facts:
            self._cached = self._facts.__getitem__
        self._idle: IdleOrder[int] | QueuedOrder[int] = IdleOrder(eviction)
        if eviction.promise.queues:
            self._idle = QueuedOrder(eviction, self._cached)

    # ---- lookup ---------------------------------------------------------------------------------

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""
        if not self.caching:
            return _NO_HIT
        ref = self._ref
        blocks = limit_tokens // self.block_size
        found = map(self._index.get, islice(self._keys(seq, blocks), blocks), repeat(0))
        path = list(takewhile(bool, found))  # ids count from 1
        return Hit(len(path), [ref[block] for block in path].count(0), False, path)

    def _keys(self, seq: Sequence, blocks: int) -> list[int]:
        """Identities of at least the first *blocks* blocks, which the sequence keeps for the next.

        Who looks for room asks again and again, and routers ask the pools of all replicas.
        """
        size = self.block_size
        if seq.keys is None or seq.keys[0] != size:
            seq.keys = (size, [])
        keys = seq.keys[1]
        if len(keys) < blocks:
            keys += seq.chain.block_keys(len(keys), blocks, size)
        return keys

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
        ref = self._ref
        path: list[int] = hit.path
        self.free -= hit.idle
        all_idle = hit.idle == len(path)
        self._idle.remove_all(path if all_idle else [block for block in path if not ref[block]])
        for block in path:
            ref[block] += 1
        if self._counts_hits:
            self._count_hits(path)
        if self._on_hit is not None:
            on_hit, cached, request = self._on_hit, self._cached, seq.request
            for unit in map(cached, path):
                on_hit(unit, request)
        seq.table.extend(path)
        seq.committed = hit.blocks

    def _count_hits(self, path: list[int]) -> None:
        """Note that these blocks were found once more."""
        if not self._keeps_facts:
            hits = self._hits
            for block in path:
                hits[block] += 1
            return
        facts = self._facts
        for block in path:
            key, position, _, found, inserted, used, importance, reach, size, media = facts[block]
            late = (used, importance, reach, size, media)
            facts[block] = _unit(CachedBlock, (key, position, 1, found + 1, inserted, *late))

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
        self._facts.extend([_NOTHING] * blocks)
        self._importance.extend([_UNUSED] * blocks)
        for column in (self._ref, self._hits, self._reach):
            column.extend([0] * blocks)

    def _evict(self, blocks: int) -> list[int]:
        self.evicted += blocks
        idle, on_evict = self._idle, self._on_evict
        if isinstance(idle, QueuedOrder):
            taken = idle.pop_all(blocks, on_evict)
        else:  # nothing that a policy hears now changes who is next
            taken = idle.pop_all(blocks, self.now)
            if on_evict is not None:
                for unit in map(self._cached, taken):
                    on_evict(unit)
        self._unindex(taken)
        return taken

    def release(self, seq: Sequence) -> None:
        """Let go of everything, tail first."""
        ref = self._ref
        self._releases += 1
        if self._counts_use:
            self._count_use(seq)
        blanks = seq.table[seq.committed :]
        idle: list[int] = []
        for block in reversed(seq.table[: seq.committed]):
            holders = ref[block] = ref[block] - 1
            if not holders:
                idle.append(block)
        for block in blanks:
            ref[block] -= 1
        self.free += len(blanks) + len(idle)
        self._rank(idle, seq.request)
        self._blank.extend(blanks)
        seq.keys = None
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
            idle.add(blocks, [rank(unit, request, now) for unit in map(cached, blocks)])
        elif self._counts_hits:
            for _, run in groupby(blocks, self._hits.__getitem__):
                alike = list(run)
                idle.add_alike(alike, rank(cached(alike[0]), request, now))
        elif blocks:
            idle.add_alike(blocks, rank(cached(blocks[0]), request, now))

    def _described(self, block: int) -> CachedBlock:
        """All that the policy may know of a block now."""
        key, position, blocks, hits, inserted, *_, media_tokens = self._facts[block]
        late = (self._releases, self._importance[block], self._reach[block], self.block_size)
        hits += self._hits[block]  # one of the two is never counted
        known = (key, position, blocks, hits, inserted, *late, media_tokens)
        return _unit(CachedBlock, known)

    # ---- the prefix index -----------------------------------------------------------------------

    def commit(self, seq: Sequence, tokens: int) -> None:
        """Put the full blocks among the first *tokens* into the index."""
        first, last = seq.committed, min(tokens // self.block_size, len(seq.table))
        if last <= first or not self.caching:
            return
        table, request = seq.table[first:last], seq.request
        keys = self._keys(seq, last)[first:last]
        index, key_of = self._index, self._key
        for block, key in zip(table, keys, strict=True):
            key_of[block] = key
            if index.setdefault(key, block) != block:
                self._twins.setdefault(key, []).append(block)
        self._describe(seq, first, keys)
        self._insertions += last - first
        if self._on_insert is not None:
            on_insert, cached = self._on_insert, self._cached
            for unit in map(cached, table):
                on_insert(unit, request)
        seq.committed = last
        if self.stored is not None:
            self.stored.append((seq, first, last))
        if self.filled is not None:
            self.filled.extend(zip(keys, table, strict=True))

    def _describe(self, seq: Sequence, first: int, keys: list[int]) -> None:
        """What a policy may want to know of a request's new blocks, from its *first* on."""
        table, size = seq.table[first : first + len(keys)], self.block_size
        if self._counts_use:
            for block in table:
                self._importance[block], self._reach[block] = -seq.request.priority, 0
        if not self._keeps_facts:
            if self._counts_hits:
                for block in table:
                    self._hits[block] = 0
            return
        facts, number, media = self._facts, self._insertions, 0
        for position, (block, key) in enumerate(zip(table, keys, strict=True), first):
            number += 1
            if self._counts_media:
                media = seq.chain.media_tokens(position * size, (position + 1) * size)
            facts[block] = _unit(CachedBlock, (key, position, 1, 0, number, 0, 0, 0, size, media))

    def key_of(self, block: int) -> int | None:
        """What the index holds in *block*; None: nothing."""
        return self._key[block]

    def _unindex(self, blocks: list[int]) -> None:
        """Nobody finds these blocks any more."""
        key_of, index, twins, log = self._key, self._index, self._twins, self.evicted_keys
        for block in blocks:
            key = key_of[block]
            assert key is not None
            if log is not None:
                log.append(key)
            key_of[block] = None
            if key in twins:
                self._untwin(block, key)
            else:
                del index[key]

    def _untwin(self, block: int, key: int) -> None:
        """Of several blocks with the same content, the earliest is the one to find."""
        twins = self._twins[key]
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
