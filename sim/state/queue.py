"""The waiting line of a replica, in the order that a policy gives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

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
    def refresh(self) -> None:
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

    def refresh(self) -> None:
        """Nothing moves with time here."""


class OrderedQueue:
    """Smallest key first; equal keys by order of arrival (request id)."""

    def __init__(self, key: Callable[[Sequence], tuple[Any, ...]], *, dynamic: bool) -> None:
        self._key, self.dynamic = key, dynamic
        self._heap: list[tuple[tuple[Any, ...], int, Sequence]] = []

    def add(self, seq: Sequence) -> None:
        """A new request joins the line."""
        heappush(self._heap, (self._key(seq), seq.id, seq))

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

    def refresh(self) -> None:
        """Compute the keys again if the order's keys move with time."""
        if self.dynamic:
            self._heap = [(self._key(seq), seq.id, seq) for _, _, seq in self._heap]
            heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[2] for entry in sorted(self._heap, key=lambda e: e[:2]))
