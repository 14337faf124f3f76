"""Idle cached units in the order in which an eviction policy lets them go."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from ....policies.eviction.base import Eviction, Key
from ....policies.eviction.queues import next_to_leave
from ....policies.types import CachedBlock, Picoseconds

U = TypeVar("U")


class IdleOrder(Generic[U]):
    """A priority queue of units by (key, order of becoming idle), with removal.

    Entries that were removed or whose key turned stay in the heap until they surface or
    outnumber the live ones.

    Args:
        eviction: says when keys turn into others, if it is dynamic.
    """

    def __init__(self, eviction: Eviction) -> None:
        self._next_key = eviction.next_key if eviction.promise.dynamic else None
        self._heap: list[tuple[Key, int, U]] = []
        self._live: dict[U, tuple[Key, int]] = {}  # unit -> its valid entry
        self._turns: list[tuple[Picoseconds, int, U, Key]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._live)

    def add_all(self, units: list[tuple[U, Key]]) -> None:
        """Units became idle, in this order, each with its key."""
        live, heap, count = self._live, self._heap, self._count
        for unit, key in units:
            count += 1
            live[unit] = (key, count)
            heappush(heap, (key, count, unit))
        if self._next_key is not None:
            first = self._count
            for i, (unit, key) in enumerate(units, first + 1):
                self._await_turn(unit, key, i)
        self._count = count
        if len(heap) > 2 * len(live) + 64:
            self._heap = [(k, n, u) for u, (k, n) in live.items()]
            heapify(self._heap)

    def _await_turn(self, unit: U, key: Key, count: int) -> None:
        assert self._next_key is not None
        turn = self._next_key(key)
        if turn is not None:
            heappush(self._turns, (turn[0], count, unit, turn[1]))

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        del self._live[unit]

    def pop(self, now: Picoseconds) -> U:
        """Take the unit that leaves first."""
        while self._turns and self._turns[0][0] <= now:
            _, count, unit, key = heappop(self._turns)
            entry = self._live.get(unit)
            if entry is not None and entry[1] == count:
                self._live[unit] = (key, count)
                heappush(self._heap, (key, count, unit))
                self._await_turn(unit, key, count)
        while True:
            key, count, unit = heappop(self._heap)
            if self._live.get(unit) == (key, count):
                del self._live[unit]
                return unit

    def units(self) -> list[U]:
        """All idle units, the first to leave first."""
        entries = [(key, count, unit) for unit, (key, count) in self._live.items()]
        return [unit for _, _, unit in sorted(entries, key=lambda e: e[:2])]


class QueuedOrder(Generic[U]):
    """Idle units in the queues of a policy that chooses between them (`QueuedEviction`).

    Args:
        eviction: chooses.
        cached: what the policy may know of a unit.
    """

    def __init__(self, eviction: Eviction, cached: Callable[[U], CachedBlock]) -> None:
        self._eviction, self._cached = eviction, cached
        self._heaps: dict[int, list[tuple[Key, int, U]]] = {}
        self._live: dict[U, tuple[Key, int]] = {}
        self._lengths: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._live)

    def add_all(self, units: list[tuple[U, Key]]) -> None:
        """Units became idle, in this order, each with its key."""
        for unit, key in units:
            self.put(unit, key)

    def put(self, unit: U, key: Key) -> None:
        """Add a unit behind those with equal keys."""
        queue = key[0]
        self._count += 1
        self._live[unit] = (key, self._count)
        self._lengths[queue] = self._lengths.get(queue, 0) + 1
        heap = self._heaps.setdefault(queue, [])
        heappush(heap, (key, self._count, unit))
        if len(heap) > 2 * self._lengths[queue] + 64:
            heap[:] = [entry for entry in heap if self._live.get(entry[2]) == entry[:2]]
            heapify(heap)

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        key, _ = self._live.pop(unit)
        self._lengths[key[0]] -= 1

    def length(self, queue: int) -> int:
        """How many units the queue holds."""
        return self._lengths.get(queue, 0)

    def head(self, queue: int) -> CachedBlock:
        """The unit of a queue that is not empty with the smallest key."""
        return self._cached(self._first(queue)[2])

    def place(self, queue: int) -> tuple[Key, int]:
        """Where the head of a queue that is not empty would stand if all queues were one."""
        key, count, _ = self._first(queue)
        return key[1:], count

    def take(self, queue: int) -> tuple[U, CachedBlock, Key]:
        """Remove the head of a queue."""
        key, _, unit = self._first(queue)
        self.remove(unit)
        return unit, self._cached(unit), key

    def _first(self, queue: int) -> tuple[Key, int, U]:
        heap = self._heaps[queue]
        while self._live.get(heap[0][2]) != heap[0][:2]:
            heappop(heap)
        return heap[0]

    def pop(self, now: Picoseconds) -> U:
        """Take the unit that the policy gives up."""
        return next_to_leave(self._eviction, self)

    def units(self) -> list[U]:
        """All idle units, queue by queue; which queue is next is the policy's to say then."""
        entries = [(key, count, unit) for unit, (key, count) in self._live.items()]
        return [unit for _, _, unit in sorted(entries, key=lambda e: e[:2])]
