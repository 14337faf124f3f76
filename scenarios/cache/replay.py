"""One stream of block look-ups through one cache of one capacity.

Every id of a request is one block, a partial last one included; answers are not cached and
nothing is pinned. A hit is a block that is cached together with all its predecessors of the same
request; the rest are misses. Misses are inserted one by one, each evicting one block when the
cache is full, except that a block which is cached already (behind a gap) keeps its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from math import inf
from time import perf_counter
from typing import Any, NamedTuple

from ...policies.errors import InputError
from ...policies.eviction.base import Eviction, Key, hook
from ...policies.types import CachedBlock, Request
from ...sim.state.kv.idle import IdleOrder
from ...sim.state.kv.queued import QueuedOrder
from .stream import Blocks, Stream

#: a named tuple's own constructor is Python code: a tenth of the replay's time
_unit = tuple.__new__


class Row(NamedTuple):
    """One policy at one capacity.

    Attributes:
        eviction: the policy, as the user named it.
        capacity: in blocks; infinity for no limit.
        hit_rate: hits / references.
        hits: blocks found.
        references: blocks asked for.
        seconds: wall-clock time of the replay, without reading the trace.
    """

    eviction: str
    capacity: float
    hit_rate: float
    hits: int
    references: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite capacity is the text "inf"."""
        capacity = "inf" if self.capacity == inf else int(self.capacity)
        return {**self._asdict(), "capacity": capacity}


def replay(stream: Stream, policy: Eviction, capacity: float, *, name: str = "") -> Row:
    """The hit rate of one policy at one capacity.

    Args:
        stream: what is looked up.
        policy: a fresh object; an oracle is told the stream.
        capacity: in blocks, a whole number from 1; infinity for no limit.
        name: what the row calls the policy.

    Raises:
        InputError: another capacity.
    """
    if capacity != inf and not (capacity >= 1 and capacity == int(capacity)):
        raise InputError(f"a capacity of {capacity:g} blocks: allowed are 1, 2, … and inf")
    if policy.promise.oracle:
        policy.attach(stream.future)
    start = perf_counter()
    if capacity == inf:
        hits = _endless(stream)
    else:
        cache = ReplayCache(int(capacity), policy, stream.block_size)
        hits = sum(cache.serve(request, blocks) for request, blocks in stream.lookups)
    seconds = perf_counter() - start
    references = stream.references
    return Row(name, capacity, hits / references if references else 0.0, hits, references, seconds)


def _endless(stream: Stream) -> int:
    """Hits where nothing is ever evicted, so that no policy is asked anything."""
    seen: set[int] = set()
    hits = 0
    for _, blocks in stream.lookups:
        whole = True
        for block in blocks:
            if block not in seen:
                whole = False
                seen.add(block)
            elif whole:
                hits += 1
    return hits


class ReplayCache:
    """Blocks of which none is ever held, kept in a policy's order of eviction.

    The policy is asked for a block's key each time the block is hit or inserted. An oracle may
    bypass: a block that would be the next to leave is not let in.

    Args:
        capacity: how many blocks it holds, at least 1.
        policy: the order in which they leave.
        block_size: tokens in a block.
    """

    def __init__(self, capacity: int, policy: Eviction, block_size: int = 1) -> None:
        self._capacity, self._policy = capacity, policy
        self._may_bypass = policy.promise.oracle
        self._on_insert, self._on_hit, self._on_evict = (
            hook(policy, name) for name in ("on_insert", "on_hit", "on_evict")
        )
        self._cached: dict[int, CachedBlock] = {}
        self._order: Any = IdleOrder(policy)
        if policy.promise.queues:
            self._order = QueuedOrder(policy, self._cached.__getitem__)
        self._insertions = self._references = 0
        self._block_size = block_size

    def __len__(self) -> int:
        return len(self._cached)

    def __contains__(self, block: int) -> bool:
        return block in self._cached

    def serve(self, request: Request, blocks: Blocks | Sequence[int]) -> int:
        """Look *blocks* up at the request's arrival, insert the misses, return the hits."""
        cached, order, policy, now = self._cached, self._order, self._policy, request.arrival_ps
        length, size, important = len(blocks), self._block_size, -request.priority
        hits = self._hit(request, blocks, length)
        used = self._references + hits
        self._references += length
        for position, block in enumerate(islice(blocks, hits, None), hits):
            used += 1
            if block in cached:
                continue
            late = (used, important, length, size, 0)
            unit = _unit(CachedBlock, (block, position, 1, 0, self._insertions, *late))
            if len(cached) >= self._capacity and not self._make_room(unit, request):
                continue
            self._insertions += 1
            if self._on_insert is not None:
                self._on_insert(unit, request)
            cached[block] = unit
            order.put(block, policy.key(unit, request, now))
        return hits

    def _hit(self, request: Request, blocks: Iterable[int], length: int) -> int:
        """Rank anew what is cached of *blocks* before the first that is not; how many they are."""
        cached, rank, on_hit, now = self._cached, self._policy.key, self._on_hit, request.arrival_ps
        important, used, size = -request.priority, self._references, self._block_size
        keys: dict[int, Key] = {}
        hits = 0
        for block in blocks:
            unit = cached.get(block)
            if unit is None:
                break
            _, _, _, known, inserted, _, most, reach, _, _ = unit
            late = (
                used + hits + 1,
                important if important > most else most,
                length if length > reach else reach,
            )
            unit = _unit(CachedBlock, (block, hits, 1, known + 1, inserted, *late, size, 0))
            if on_hit is not None:
                on_hit(unit, request)
            cached[block] = unit
            keys.pop(block, None)  # a prompt can say a block twice: its last place counts
            keys[block] = rank(unit, request, now)
            hits += 1
        self._order.remove_all(keys)
        self._order.add(keys, keys.values())
        return hits

    def _make_room(self, unit: CachedBlock, request: Request) -> bool:
        """Evict one block, unless *unit* bypasses the full cache: then False."""
        policy, now = self._policy, request.arrival_ps
        if self._may_bypass and policy.key(unit, request, now) <= self._order.first():
            return False
        victim = self._cached.pop(self._order.pop(now))
        if self._on_evict is not None:
            self._on_evict(victim)
        return True
