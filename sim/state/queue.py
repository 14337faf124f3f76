"""The waiting line of a replica, in the order that a policy gives it."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heapify, heappop, heappush, merge
from typing import Any, Protocol

from ...policies.scheduling.base import Order
from ...policies.types import Picoseconds
from .sequence import Sequence


class WaitingQueue(Protocol):
    """What the scheduler's host needs of a waiting line."""

    dynamic: bool  #: its order may change with time alone

    def add(self, seq: Sequence) -> None:
        """A new request joins the line."""

    def put_back(self, seq: Sequence) -> None:
        """A preempted request returns: to the front, where the order knows a front."""

    def put_aside_back(self, aside: Iterable[Sequence]) -> None:
        """Requests that were passed over return to the front, in their old order."""

    def peek(self) -> Sequence: ...
    def pop(self) -> Sequence: ...
    def remove(self, seq: Sequence) -> None: ...
    def key(self, seq: Sequence) -> tuple[Any, ...]:
        """Its rank: smallest first."""

    def refresh(self, now: Picoseconds) -> None:
        """A new step begins: an order whose keys move with time sorts again."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sequence]: ...


class FifoQueue(deque[Sequence]):
    """First come, first served, as vLLM's FCFSRequestQueue."""

    dynamic = False
    add = deque.append
    put_back = deque.appendleft
    pop = deque.popleft

    def put_aside_back(self, aside: Iterable[Sequence]) -> None:
        """Requests that were passed over return to the front, in their old order."""
        self.extendleft(reversed(list(aside)))

    def peek(self) -> Sequence:
        """The head of the line."""
        return self[0]

    def key(self, seq: Sequence) -> tuple[Any, ...]:
        """Its arrival."""
        return (seq.request.arrival_ps,)

    def refresh(self, now: Picoseconds) -> None:
        """Nothing moves with time here."""


class OrderedQueue:
    """Smallest key first; equal keys by order of arrival (request id).

    Args:
        key: of a request, now.
        dynamic: keys move with time alone.
        changes_ps: when the key of a request that waits moves next, `NEVER` if it does not.
            Without it keys that move are computed anew at every step.
    """

    def __init__(
        self,
        key: Callable[[Sequence], tuple[Any, ...]],
        *,
        dynamic: bool,
        changes_ps: Callable[[Sequence], Picoseconds] | None = None,
    ) -> None:
        self.key, self.dynamic, self._changes_ps = key, dynamic, changes_ps
        self._heap: list[tuple[tuple[Any, ...], int, Sequence]] = []
        self._due: list[tuple[Picoseconds, int]] = []  # (when a key moves, request id)

    def add(self, seq: Sequence) -> None:
        """A new request joins the line."""
        heappush(self._heap, (self.key(seq), seq.id, seq))
        if self._changes_ps is not None:
            heappush(self._due, (self._changes_ps(seq), seq.id))

    put_back = add

    def put_aside_back(self, aside: Iterable[Sequence]) -> None:
        """Requests that were passed over take their places again."""
        for seq in aside:
            self.add(seq)

    def peek(self) -> Sequence:
        """The head of the line."""
        return self._heap[0][2]

    def pop(self) -> Sequence:
        """Take the head of the line."""
        return heappop(self._heap)[2]

    def remove(self, seq: Sequence) -> None:
        """Take *seq* out, wherever it stands."""
        self._heap = [entry for entry in self._heap if entry[2] is not seq]
        heapify(self._heap)

    def refresh(self, now: Picoseconds) -> None:
        """Compute the keys again that time alone has moved."""
        if not self.dynamic:
            return
        if self._changes_ps is None:
            self._heap = [(self.key(seq), seq.id, seq) for _, _, seq in self._heap]
            heapify(self._heap)
            return
        moved = set()
        while self._due and self._due[0][0] <= now:
            moved.add(heappop(self._due)[1])
        again = [seq for _, i, seq in self._heap if i in moved] if moved else ()
        if again:
            self._heap = [entry for entry in self._heap if entry[1] not in moved]
            heapify(self._heap)
            for seq in again:
                self.add(seq)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        heap = self._heap.copy()
        while heap:
            yield heappop(heap)[2]


class GroupedQueue:
    """An `OrderedQueue` whose keys move with time, but together for all requests of a group.

    So the order within a group stands, and the heads of groups alone are compared.

    Args:
        key: of a request, now.
        group: what a request belongs to, for good.
    """

    dynamic = True

    def __init__(
        self,
        key: Callable[[Sequence], tuple[Any, ...]],
        group: Callable[[Sequence], Hashable],
    ) -> None:
        self.key, self._group = key, group
        self._lines: dict[Hashable, deque[Sequence]] = {}  # none of them is empty
        self._size = 0
        self._head: Sequence | None = None  # None: to be looked for

    def add(self, seq: Sequence) -> None:
        """A new request joins the line of its group."""
        insort(self._lines.setdefault(self._group(seq), deque()), seq, key=self._rank)
        self._size += 1
        self._head = None

    put_back = add

    def put_aside_back(self, aside: Iterable[Sequence]) -> None:
        """Requests that were passed over take their places again."""
        for seq in aside:
            self.add(seq)

    def peek(self) -> Sequence:
        """The head of the line."""
        if self._head is None:
            self._head = min((line[0] for line in self._lines.values()), key=self._rank)
        return self._head

    def pop(self) -> Sequence:
        """Take the head of the line."""
        head = self.peek()
        self.remove(head)
        return head

    def remove(self, seq: Sequence) -> None:
        """Take *seq* out, wherever it stands."""
        group = self._group(seq)
        line = self._lines[group]
        line.remove(seq)
        if not line:
            del self._lines[group]
        self._size -= 1
        self._head = None

    def refresh(self, now: Picoseconds) -> None:
        """Another group may lead."""
        self._head = None

    def _rank(self, seq: Sequence) -> tuple[Any, ...]:
        return (self.key(seq), seq.id)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        return merge(*(line.copy() for line in self._lines.values()), key=self._rank)


def waiting_line(order: Order | None, now: Callable[[], Picoseconds]) -> WaitingQueue:
    """A line in the order of a policy; None: first come, first served.

    Args:
        now: the host's clock.
    """
    if order is None:
        return FifoQueue()

    def key(seq: Sequence) -> tuple[Any, ...]:
        return order.key(seq, now())

    group = getattr(order, "group", None)
    if group is not None:
        return GroupedQueue(key, group)
    changes_ps = getattr(order, "changes_ps", None)
    return OrderedQueue(
        key,
        dynamic=order.promise.dynamic,
        changes_ps=changes_ps and (lambda seq: changes_ps(seq, now())),
    )
