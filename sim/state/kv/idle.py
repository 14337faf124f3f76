"""Idle cached units in the order in which an eviction policy lets them go."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain, groupby, repeat
from operator import itemgetter
from typing import Generic, TypeAlias, TypeVar

from ....policies.eviction.base import Eviction, Key
from ....policies.types import Picoseconds

U = TypeVar("U")

#: a unit with its key and its number among all that became idle: the smallest leaves first
Entry: TypeAlias = tuple[Key, int, U]
_Head: TypeAlias = tuple[Key, int, U, deque[Entry[U]]]

_key_of = itemgetter(0)


class Runs(Generic[U]):
    """Entries that leave smallest first, in ascending runs.

    What becomes idle together is one run, or goes on with the last one, and the heap is of runs:
    most policies give a request's blocks keys that follow each other, and hardly need it. An entry
    is void once its unit has another or none; it stays until it surfaces or the void outnumber
    the others.

    Args:
        live: the valid entry of each unit; the caller keeps it.
    """

    def __init__(self, live: dict[U, Entry[U]]) -> None:
        self._live = live
        self._run: deque[Entry[U]] = deque()  # the one that entries are taken from
        self._last = self._run  # the one that was added to last
        self._others: list[Entry[U] | _Head[U]] = []  # a heap of runs by their heads

    def add(self, entries: Sequence[Entry[U]]) -> None:
        """Entries in ascending order, at least one."""
        last = self._last
        if last and last[-1] < entries[0]:
            last.extend(entries)
        else:
            self._last = last = deque(entries)
            heappush(self._others, (*entries[0], last))

    def put(self, entry: Entry[U]) -> None:
        """One entry; it gets a run of its own only where there is none to go on with."""
        last = self._last
        if not last:
            self.add((entry,))
        elif last[-1] < entry:
            last.append(entry)
        else:
            heappush(self._others, entry)

    def first(self) -> Entry[U]:
        """The smallest entry; there must be one."""
        entry = self.take()
        self._run.appendleft(entry)
        self._live[entry[2]] = entry
        return entry

    def take(self) -> Entry[U]:
        """As `first`, and it is taken out; its unit is not live any more."""
        live, others, run = self._live, self._others, self._run
        while True:
            if others and not (run and run[0] < others[0]):
                run = self._go_on()
            entry = run.popleft()
            if live.get(entry[2]) is entry:
                del live[entry[2]]
                return entry

    def take_all(self, count: int) -> list[U]:
        """The units of so many entries, as `take`."""
        live, others, run = self._live, self._others, self._run
        out: list[U] = []
        while len(out) < count:
            if others and not (run and run[0] < others[0]):
                run = self._go_on()
            entry = run.popleft()
            unit = entry[2]
            if live.get(unit) is entry:
                del live[unit]
                out.append(unit)
        return out

    def _go_on(self) -> deque[Entry[U]]:
        """The run that the smallest entry, which is not in `_run`, begins."""
        others, run = self._others, self._run
        if len(others[0]) == 3:
            run.appendleft(heappop(others))  # type: ignore[arg-type]
        elif run:
            self._run = heapreplace(others, (*run[0], run))[3]  # type: ignore[misc]
        else:
            self._run = heappop(others)[3]  # type: ignore[misc]
        return self._run

    def compact(self) -> None:
        """Drop all void entries."""
        live = self._live
        self._last = deque()
        self._run = deque([e for e in self._run if live.get(e[2]) is e])
        others: list[Entry[U] | _Head[U]] = []
        for other in self._others:
            if len(other) == 3:
                if live.get(other[2]) is other:
                    others.append(other)
            elif run := deque([e for e in other[3] if live.get(e[2]) is e]):
                others.append((*run[0], run))
        heapify(others)
        self._others = others

    def entries(self) -> list[Entry[U]]:
        """All valid ones in order."""
        others = ((e,) if len(e) == 3 else e[3] for e in self._others)
        return sorted(e for e in chain(self._run, *others) if self._live.get(e[2]) is e)


class Idle(Generic[U]):
    """Units that nobody holds, numbered as they become idle."""

    def __init__(self) -> None:
        self._live: dict[U, Entry[U]] = {}
        self._added = 0  # entries so far
        self._lined = 0  # those in line, and void ones that surfaced since all were last dropped

    def __len__(self) -> int:
        return len(self._live)

    def add(self, units: Collection[U], keys: Iterable[Key]) -> None:
        """Different units became idle, in this order, each with its key."""
        entries = self._entries(units, keys)
        entries.sort()
        self._enter(entries)

    def add_alike(self, units: Collection[U], key: Key) -> None:
        """Different units became idle, in this order, all with one key."""
        self._enter(self._entries(units, repeat(key)))

    def _entries(self, units: Collection[U], keys: Iterable[Key]) -> list[Entry[U]]:
        first = self._added
        self._added += len(units)
        entries = list(zip(keys, range(first, self._added), units, strict=False))
        self._live.update(zip(units, entries, strict=True))
        return entries

    def _enter(self, entries: list[Entry[U]]) -> None:
        """Line up new entries, which stand in order."""
        raise NotImplementedError

    def _tidy(self, more: int, runs: Iterable[Runs[U]]) -> None:
        """So many *more* entries have entered *runs*, which are all there are."""
        self._lined += more
        if self._lined > 2 * len(self._live) + 64:
            for some in runs:
                some.compact()
            self._lined = len(self._live)


class IdleOrder(Idle[U]):
    """A priority queue of units by (key, order of becoming idle), with removal.

    Args:
        eviction: says when keys turn into others, if it is dynamic.
    """

    def __init__(self, eviction: Eviction) -> None:
        super().__init__()
        self._next_key = eviction.next_key if eviction.promise.dynamic else None
        self._runs = Runs(self._live)
        self._turns: list[tuple[Picoseconds, int, Key, list[Entry[U]]]] = []  # when, …, new key

    def put(self, unit: U, key: Key) -> None:
        """One unit became idle."""
        entry = self._live[unit] = (key, self._added, unit)
        self._added += 1
        self._runs.put(entry)
        if self._next_key is not None:
            self._await_turns([entry])
        self._tidy(1, (self._runs,))

    def _enter(self, entries: list[Entry[U]]) -> None:
        if not entries:
            return
        self._runs.add(entries)
        if self._next_key is not None:
            self._await_turns(entries)
        self._tidy(len(entries), (self._runs,))

    def _await_turns(self, entries: list[Entry[U]]) -> None:
        assert self._next_key is not None
        for key, alike in groupby(entries, _key_of):
            turn = self._next_key(key)
            if turn is not None:
                some = list(alike)
                heappush(self._turns, (turn[0], some[0][1], turn[1], some))

    def _turn(self, now: Picoseconds) -> None:
        """Give units whose keys have turned by *now* their new ones; their numbers stay."""
        live = self._live
        while self._turns and self._turns[0][0] <= now:
            *_, key, entries = heappop(self._turns)
            turned = [(key, e[1], e[2]) for e in entries if live.get(e[2]) is e]
            live.update((entry[2], entry) for entry in turned)
            self._enter(turned)

    def remove(self, unit: U) -> None:
        """*unit* is held again, or gone."""
        del self._live[unit]

    def remove_all(self, units: Iterable[U]) -> None:
        """Units are held again, or gone."""
        live = self._live
        for unit in units:
            del live[unit]

    def pop(self, now: Picoseconds) -> U:
        """Take the unit that leaves first."""
        if self._turns:
            self._turn(now)
        self._lined -= 1
        return self._runs.take()[2]

    def pop_all(self, units: int, now: Picoseconds) -> list[U]:
        """Take so many units, the first to leave first."""
        if self._turns:
            self._turn(now)
        self._lined -= units
        return self._runs.take_all(units)

    def first(self) -> Key:
        """The key of the unit that leaves first; there must be one."""
        return self._runs.first()[0]

    def units(self) -> list[U]:
        """All idle units, the first to leave first."""
        return [unit for _, _, unit in self._runs.entries()]
