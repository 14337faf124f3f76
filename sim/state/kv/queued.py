"""Idle cached units in the queues of a policy that chooses between them."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ....policies.eviction.base import Key
from ....policies.eviction.queues import QueuedEviction
from ....policies.types import CachedBlock, Picoseconds
from .idle import Entry, Idle, Runs

U = TypeVar("U")


class QueuedOrder(Idle[U]):
    """Idle units in the queues of a `QueuedEviction`.

    Args:
        eviction: chooses; a `QueuedEviction`.
        cached: what the policy may know of a unit.

    Attributes:
        lengths: units in each queue.
    """

    def __init__(self, eviction: Any, cached: Callable[[U], CachedBlock]) -> None:
        self._pick, self._spare, self._cached = eviction.pick, eviction.spare, cached
        self._spares = getattr(self._spare, "__func__", None) is not QueuedEviction.spare
        super().__init__()
        self._queues: defaultdict[int, Runs[U]] = defaultdict(lambda: Runs(self._live))
        self.lengths: defaultdict[int, int] = defaultdict(int)

    def put(self, unit: U, key: Key) -> None:
        """One unit became idle."""
        self._line_up(unit, key)
        self._tidy(1, self._queues.values())

    def _line_up(self, unit: U, key: Key) -> None:
        entry = self._live[unit] = (key, self._added, unit)
        self._added += 1
        self._queues[key[0]].put(entry)
        self.lengths[key[0]] += 1

    def _enter(self, entries: list[Entry[U]]) -> None:
        for queue, some in _by_queue(entries):
            self._queues[queue].add(some)
            self.lengths[queue] += len(some)
        self._tidy(len(entries), self._queues.values())

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        self.lengths[self._live.pop(unit)[0][0]] -= 1

    def remove_all(self, units: Iterable[U]) -> None:
        """Units are held again, or gone."""
        live = self._live
        queues = [live.pop(unit)[0][0] for unit in units]
        for queue in set(queues):
            self.lengths[queue] -= queues.count(queue)

    def head(self, queue: int) -> CachedBlock:
        """The unit of a queue that is not empty with the smallest key."""
        return self._cached(self._queues[queue].first()[2])

    def place(self, queue: int) -> tuple[Key, int]:
        """Where the head of a queue that is not empty would stand if all queues were one."""
        key, number, _ = self._queues[queue].first()
        return key[1:], number

    def pop(self, now: Picoseconds) -> U:
        """Take the unit that the policy gives up."""
        return self.pop_all(1, None)[0]

    def pop_all(self, units: int, on_evict: Callable[[CachedBlock], None] | None) -> list[U]:
        """Take so many, one after the other; *on_evict* hears of each before the next."""
        pick, cached, queues, lengths = self._pick, self._cached, self._queues, self.lengths
        spares, spare = self._spares, self._spare
        out: list[U] = []
        self._lined -= units
        while len(out) < units:
            queue = pick(self)
            key, _, unit = queues[queue].take()
            lengths[queue] -= 1
            block = cached(unit)
            if spares:
                again = spare(block, key)
                if again is not None:
                    self._line_up(unit, again)
                    continue
            if on_evict is not None:
                on_evict(block)
            out.append(unit)
        return out

    def units(self) -> list[U]:
        """All idle units, queue by queue; which queue is next is the policy's to say then."""
        return [e[2] for number in sorted(self._queues) for e in self._queues[number].entries()]


def _by_queue(entries: list[Entry[U]]) -> Iterator[tuple[int, list[Entry[U]]]]:
    """Sorted entries, queue by queue."""
    first = 0
    while first < len(entries):
        queue = entries[first][0][0]
        end = bisect_right(entries, queue, first, key=lambda entry: entry[0][0])
        yield queue, entries[first:end]
        first = end
