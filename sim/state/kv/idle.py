"""Idle cached units in the order in which an eviction policy lets them go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from ....policies.eviction.base import Eviction, Key
from ....policies.types import Picoseconds

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

    def add_alike(self, units: Sequence[U], key: Key) -> None:
        """Different units became idle, in this order, all with one key."""
        self.add_all([(unit, key) for unit in units])

    def _await_turn(self, unit: U, key: Key, count: int) -> None:
        assert self._next_key is not None
        turn = self._next_key(key)
        if turn is not None:
            heappush(self._turns, (turn[0], count, unit, turn[1]))

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        del self._live[unit]

    def remove_all(self, units: Iterable[U]) -> None:
        """Units are held again, or gone."""
        for unit in units:
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
