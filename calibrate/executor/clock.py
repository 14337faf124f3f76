"""Time in the executor: simulated, from a cost model, or the real one."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from multiprocessing.connection import Connection, wait
from time import perf_counter_ns, sleep
from typing import Any, Protocol, TypeAlias

from ...policies.types import Picoseconds
from ...sim.state.ties import REPLICA, SAMPLE

PS_PER_NS = 1000
Call: TypeAlias = Callable[[Any], None]


class Stepping(Protocol):
    """A replica's host, as a clock sees it."""

    number: int

    @property
    def waitable(self) -> Connection | None:
        """Readable when its oldest step in flight is computed; None: just wait for it."""

    def wait(self) -> None:
        """Block until the oldest step in flight is computed; it ends now."""

    def boundary(self, callback: object) -> None:
        """A step has ended, or something came for an idle replica."""


class Clock:
    """Callbacks at absolute times, in the order (time, priority, insertion).

    Attributes:
        virtual: time is what the cost model says.
        due_ps: when the callback that runs was due; a real clock may be late.
    """

    virtual = False

    def __init__(self) -> None:
        self._heap: list[tuple[Picoseconds, int, int, Call]] = []
        self._inserted = 0
        self.due_ps: Picoseconds = 0

    @property
    def now_ps(self) -> Picoseconds:
        """Picoseconds since the run began."""
        raise NotImplementedError

    @property
    def quiet(self) -> bool:
        """Whether nothing but samples is left to happen."""
        return all(priority == SAMPLE for _, priority, _, _ in self._heap)

    def at(self, time_ps: Picoseconds, priority: int, call: Call) -> object:
        """Call ``call(token)`` at an absolute time; the token is what this returns."""
        self._inserted += 1
        entry = (time_ps, priority, self._inserted, call)
        heappush(self._heap, entry)
        return entry

    def end_of(self, server: Stepping, planned_ps: Picoseconds) -> object:
        """The oldest step of *server* ends, at *planned_ps* by the cost model: its boundary."""
        raise NotImplementedError

    def run_out(self) -> None:
        """Run until nothing is left to happen."""
        raise NotImplementedError

    def _pop(self) -> None:
        entry = heappop(self._heap)
        self.due_ps = entry[0]
        entry[3](entry)


class VirtualClock(Clock):
    """Steps last as long as the cost model says; time passes at once."""

    virtual = True

    @property
    def now_ps(self) -> Picoseconds:
        """The time of the callback that runs."""
        return self.due_ps

    def end_of(self, server: Stepping, planned_ps: Picoseconds) -> object:
        """The boundary is a callback like any other."""
        return self.at(planned_ps, REPLICA + server.number, server.boundary)

    def run_out(self) -> None:
        """Run until nothing is left to happen."""
        while self._heap:
            self._pop()


class WallClock(Clock):
    """Steps last as long as they last. It stands still until `begin` or `run_out`."""

    def __init__(self) -> None:
        super().__init__()
        self._began_ns: int | None = None
        self._steps: list[Stepping] = []  # whose oldest step is awaited

    @property
    def now_ps(self) -> Picoseconds:
        """Real time since the run began."""
        if self._began_ns is None:
            return 0
        return (perf_counter_ns() - self._began_ns) * PS_PER_NS

    @property
    def quiet(self) -> bool:
        """Whether nothing but samples is left to happen."""
        return not self._steps and super().quiet

    def end_of(self, server: Stepping, planned_ps: Picoseconds) -> object:
        """The boundary comes when the step is computed, whatever was planned."""
        self._steps.append(server)
        return server

    def begin(self) -> None:
        """It is 0 now, and time goes on."""
        self._began_ns = perf_counter_ns()

    def run_out(self) -> None:
        """Run until nothing is left to happen."""
        self.begin()
        while True:
            self._run_due()
            if self._steps:
                server = self._first_done()
                if server is None:
                    continue  # something is due before a step ends
                self._steps.remove(server)
                server.wait()
                self._run_due()  # what came during the step is seen at its end
                self.due_ps = self.now_ps
                server.boundary(server)
            elif self._heap:
                sleep(self._until_due_s())
            else:
                return

    def _first_done(self) -> Stepping | None:
        """The replica whose step ends first; None when a callback is due before."""
        awaited = {}
        for server in self._steps:
            connection = server.waitable
            if connection is None:
                return server
            awaited[connection] = server
        done = wait(list(awaited), self._until_due_s() if self._heap else None)
        ready = [server for connection, server in awaited.items() if connection in done]
        return min(ready, key=lambda server: server.number, default=None)

    def _until_due_s(self) -> float:
        return max(0, self._heap[0][0] - self.now_ps) / 1e12

    def _run_due(self) -> None:
        while self._heap and self._heap[0][0] <= self.now_ps:
            self._pop()
