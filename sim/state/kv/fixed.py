"""Idle cached units in an order of eviction that never turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import groupby, repeat
from typing import Generic, TypeAlias, TypeVar

from ....policies.eviction.base import Eviction, Key
from ....policies.eviction.queues import next_to_leave
from ....policies.types import CachedBlock, Picoseconds

U = TypeVar("U")

#: when it was added, and the unit
_Entry: TypeAlias = tuple[int, U]


class FixedOrder(Generic[U]):
    """`IdleOrder` for keys that never turn: a heap of the different keys, and a line behind each.

    Most policies know few keys at a time, and a request's blocks share them. Entries of units that
    were removed stay until they surface, are replaced or outnumber the live ones. A line of one
    is that entry, not a deque: keys that tell all units apart cost no more than a heap.

    Attributes:
        count: additions so far. Several orders that are given one count know who was first.
    """

    def __init__(self) -> None:
        self._live: dict[U, int] = {}  # unit -> when it was added; other entries are void
        self._lines: dict[Key, _Entry[U] | deque[_Entry[U]]] = {}
        self._keys: list[Key] = []  # a heap: every key of a line, once
        self.count = 0
        self._entries = 0

    def __len__(self) -> int:
        return len(self._live)

    def add_all(self, units: Iterable[tuple[U, Key]]) -> None:
        """Units became idle, in this order, each with its key."""
        lines, live, keys, count = self._lines, self._live, self._keys, self.count
        replaced = 0
        for unit, key in units:
            count += 1
            live[unit] = count
            line = lines.get(key)
            if line is None:
                lines[key] = (count, unit)
                heappush(keys, key)
            elif type(line) is not tuple:
                line.append((count, unit))  # type: ignore[union-attr]
            elif live.get(line[1]) == line[0]:
                lines[key] = deque((line, (count, unit)))
            else:
                lines[key] = (count, unit)
                replaced += 1
        self._entries += count - self.count - replaced
        self.count = count
        if self._entries > 2 * len(live) + 64:
            self._compact()

    def add_alike(self, units: Sequence[U], key: Key) -> None:
        """Different units became idle, in this order, all with one key."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = deque()
            heappush(self._keys, key)
        elif isinstance(line, tuple):
            line = self._lines[key] = deque((line,))
        self.count += 1
        self._live.update(zip(units, repeat(self.count)))
        line.extend(zip(repeat(self.count), units))
        self._entries += len(units)
        if self._entries > 2 * len(self._live) + 64:
            self._compact()

    def _compact(self) -> None:
        live = self._live
        lines: dict[Key, _Entry[U] | deque[_Entry[U]]] = {}
        for key, line in self._lines.items():
            entries = (line,) if isinstance(line, tuple) else line
            valid = deque(entry for entry in entries if live.get(entry[1]) == entry[0])
            if valid:
                lines[key] = valid if len(valid) > 1 else valid[0]
        self._lines, self._entries = lines, len(live)
        self._keys = list(lines)
        heapify(self._keys)

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        del self._live[unit]

    def remove_all(self, units: Iterable[U]) -> None:
        """Units are held again, or gone."""
        live = self._live
        for unit in units:
            del live[unit]

    def first(self) -> tuple[U, Key]:
        """The unit that leaves first, and its key; there must be one."""
        keys, lines, live = self._keys, self._lines, self._live
        while True:
            key = keys[0]
            line = lines[key]
            if isinstance(line, tuple):
                if live.get(line[1]) == line[0]:
                    return line[1], key
                self._entries -= 1
            else:
                while line:
                    count, unit = line[0]
                    if live.get(unit) == count:
                        return unit, key
                    line.popleft()
                    self._entries -= 1
            heappop(keys)
            del lines[key]

    def added(self, unit: U) -> int:
        """The `count` of the addition of an idle unit."""
        return self._live[unit]

    def take(self) -> tuple[U, Key]:
        """As `first`, and it is taken out."""
        unit, key = found = self.first()
        del self._live[unit]
        line = self._lines[key]
        self._entries -= 1
        if isinstance(line, tuple):
            heappop(self._keys)
            del self._lines[key]
        else:
            line.popleft()
        return found

    def pop(self, now: Picoseconds = 0) -> U:
        """Take the unit that leaves first."""
        return self.take()[0]

    def pop_all(self, units: int) -> list[U]:
        """Take so many units, the first to leave first."""
        out: list[U] = []
        keys, lines, live = self._keys, self._lines, self._live
        while len(out) < units:
            key = keys[0]
            line = lines[key]
            if isinstance(line, tuple):
                self._entries -= 1
                heappop(keys)
                del lines[key]
                count, unit = line
                if live.get(unit) == count:
                    del live[unit]
                    out.append(unit)
                continue
            before = len(line)
            while line and len(out) < units:
                count, unit = line.popleft()
                if live.get(unit) == count:
                    del live[unit]
                    out.append(unit)
            self._entries -= before - len(line)
            if not line:
                heappop(keys)
                del lines[key]
        return out

    def units(self) -> list[U]:
        """All idle units, the first to leave first."""
        found: list[U] = []
        for key in sorted(self._lines):
            line = self._lines[key]
            for count, unit in (line,) if isinstance(line, tuple) else line:
                if self._live.get(unit) == count:
                    found.append(unit)
        return found


class QueuedOrder(Generic[U]):
    """Idle units in the queues of a policy that chooses between them (`QueuedEviction`).

    Args:
        eviction: chooses.
        cached: what the policy may know of a unit.
    """

    def __init__(self, eviction: Eviction, cached: Callable[[U], CachedBlock]) -> None:
        self._eviction, self._cached = eviction, cached
        self._queues: dict[int, FixedOrder[U]] = {}
        self._where: dict[U, int] = {}
        self._lengths: dict[int, int] = {}
        self._count = 0  # additions to all queues

    def __len__(self) -> int:
        return len(self._where)

    def add_all(self, units: Iterable[tuple[U, Key]]) -> None:
        """Units became idle, in this order, each with its key."""
        for number, several in groupby(units, _queue_of):
            found = list(several)
            self._where.update((unit, number) for unit, _ in found)
            order = self._queue(number, len(found))
            order.add_all(found)
            self._count = order.count

    def add_alike(self, units: Sequence[U], key: Key) -> None:
        """Different units became idle, in this order, all with one key."""
        self._where.update(zip(units, repeat(key[0])))
        order = self._queue(key[0], len(units))
        order.add_alike(units, key)
        self._count = order.count

    def put(self, unit: U, key: Key) -> None:
        """Add a unit behind those with equal keys."""
        queue = self._where[unit] = key[0]
        order = self._queue(queue, 1)
        order.add_all(((unit, key),))
        self._count = order.count

    def _queue(self, number: int, more: int) -> FixedOrder[U]:
        """The queue, which is about to get so many units *more*."""
        found = self._queues.get(number)
        if found is None:
            found = self._queues[number] = FixedOrder()
            self._lengths[number] = 0
        self._lengths[number] += more
        found.count = self._count
        return found

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        self.remove_all((unit,))

    def remove_all(self, units: Iterable[U]) -> None:
        """Units are held again, or gone."""
        where, queues, lengths = self._where, self._queues, self._lengths
        for unit in units:
            number = where.pop(unit)
            queues[number].remove(unit)
            lengths[number] -= 1

    def length(self, queue: int) -> int:
        """How many units the queue holds."""
        return self._lengths.get(queue, 0)

    def head(self, queue: int) -> CachedBlock:
        """The unit of a queue that is not empty with the smallest key."""
        return self._cached(self._queues[queue].first()[0])

    def place(self, queue: int) -> tuple[Key, int]:
        """Where the head of a queue that is not empty would stand if all queues were one."""
        order = self._queues[queue]
        unit, key = order.first()
        return key[1:], order.added(unit)

    def take(self, queue: int) -> tuple[U, CachedBlock, Key]:
        """Remove the head of a queue."""
        unit, key = self._queues[queue].take()
        del self._where[unit]
        self._lengths[queue] -= 1
        return unit, self._cached(unit), key

    def pop(self, now: Picoseconds) -> U:
        """Take the unit that the policy gives up."""
        return next_to_leave(self._eviction, self)

    def units(self) -> list[U]:
        """All idle units, queue by queue; which queue is next is the policy's to say then."""
        return [unit for number in sorted(self._queues) for unit in self._queues[number].units()]


def _queue_of(ranked: tuple[object, Key]) -> int:
    queue: int = ranked[1][0]
    return queue
