"""SimPy's environment with cheap callbacks at absolute integer times."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy

from ...policies.types import Picoseconds
from ..state.ties import ARRIVAL as ARRIVAL
from ..state.ties import REPLICA as REPLICA
from ..state.ties import SAMPLE as SAMPLE


class Callback:
    """A call that SimPy's queue can hold; the receiver knows stale ones by identity."""

    __slots__ = ("callbacks",)
    _ok = True  # SimPy asks

    def __init__(self, call: Callable[[Any], None]) -> None:
        self.callbacks = (call,)


class Clock(simpy.Environment):
    """Simulated time in integer picoseconds.

    Attributes:
        now_ps: the time; SimPy's own, but read at every turn.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self.now_ps: Picoseconds = 0
        self._reached = -1

    @property
    def due_ps(self) -> Picoseconds:
        """Now: simulated time is never late."""
        return self.now_ps

    def at(self, time_ps: Picoseconds, priority: int, call: Callable[[Any], None]) -> Callback:
        """Call ``call(callback)`` at an absolute time."""
        event = Callback(call)
        queue: list[Any] = self._queue
        heappush(queue, (time_ps, priority, next(self._eid), event))
        return event

    def passed(self, priority: int) -> bool:
        """Whether callbacks of *priority* at this very instant would have come before now."""
        return priority <= self._reached

    @property
    def quiet(self) -> bool:
        """Whether nothing but samples is left to happen."""
        return all(priority == SAMPLE for _, priority, _, _ in self._queue)

    def run_out(self) -> None:
        """Run until nothing is left to happen (SimPy's `run`, without its per-event frames)."""
        queue: list[Any] = self._queue
        now = self._now
        while queue:
            time_ps, priority, _, event = heappop(queue)
            if time_ps != now:
                now = self._now = self.now_ps = time_ps
                self._reached = priority
            elif priority > self._reached:
                self._reached = priority
            if type(event) is Callback:
                event.callbacks[0](event)
                continue
            callbacks, event.callbacks = event.callbacks, None
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
