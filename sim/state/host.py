"""A run, in any host: what a workload sends is let in at its times, and counted at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ...policies.errors import InfersimError, NoProgressError
from ...policies.types import Picoseconds
from ..cost.grades import Ledger, time_by_grade
from .config import RunLimits
from .encoding import Encoder
from .front import Front, Served, Timed
from .journal import Sampler, Timer
from .offload import offloaded
from .records import GapHistogram
from .session import Arrival, Call, CallResult, Session
from .swap import swapped
from .ties import ARRIVAL, SAMPLE


class Alarm(Timed, Timer, Protocol):
    """A host's clock, as a run uses it."""


class Counted(Served, Protocol):
    """A replica in its host, and what it counts."""

    last_end: Picoseconds
    busy_ps: Picoseconds
    ledger: Ledger


@dataclass(slots=True)
class Played:
    """What a run leaves behind, in any host.

    Attributes:
        requests, series: columns as in `sim.state.records`.
        itl: gaps between tokens.
        totals: exact counters, equal with leaps on and off.
    """

    requests: dict[str, np.ndarray[Any, Any]]
    series: dict[str, np.ndarray[Any, Any]]
    itl: GapHistogram
    totals: dict[str, int]


S = TypeVar("S", bound=Counted)


class Host(Generic[S]):
    """Lets the calls of a workload in and counts what became of them.

    A host subclasses it and knows what makes time pass.

    Args:
        arrivals: what comes, in the order of time.
        limits: when to take no more work.
        start: plays a session from now on; its calls come to `submit`.
    """

    def __init__(
        self,
        clock: Alarm,
        front: Front[S],
        arrivals: Iterator[Arrival],
        limits: RunLimits,
        start: Callable[[Session], object],
    ) -> None:
        self._alarm, self._front, self._arrivals = clock, front, arrivals
        self._limits, self._start = limits, start
        self._sampler = Sampler(clock, front.servers, front.journal, lambda: front.preparing)
        self._age, self._reporting = front.config.signal_age_ps, False
        self._arrival: Arrival | None = None

    # ---- what comes in --------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        limits = self._limits
        return (limits.requests is not None and self._front.journal.arrived >= limits.requests) or (
            limits.duration_ps is not None and self._alarm.due_ps >= limits.duration_ps
        )

    def _next_arrival(self) -> None:
        self._arrival = arrival = next(self._arrivals, None)
        if arrival is not None:
            self._alarm.at(max(arrival.at_ps, self._alarm.due_ps), ARRIVAL, self._arrive)

    def _arrive(self, _: object) -> None:
        if self._closed or self._arrival is None:
            return
        what = self._arrival.what
        if isinstance(what, Call):
            self.submit(what, _nobody_waits)
        else:
            self._start(what())
        self._next_arrival()

    def submit(self, call: Call, answer: Callable[[CallResult], Any]) -> None:
        """Take a call, unless the run takes no more work; then nobody ever answers."""
        if self._closed:
            return
        self._sampler.wake()
        if self._age and not self._reporting:
            self._reporting = True
            self._report_load(None)
        self._front.submit(call, answer)

    def _report_load(self, _: object) -> None:
        """Reports go out at once when work comes, then at every signal age while there is any."""
        self._front.keep_reports()
        if _ is None or (self._front.open_requests and not self._alarm.quiet):
            self._alarm.at(self._alarm.now_ps + self._age, SAMPLE, self._report_load)
        else:
            self._reporting = False

    # ---- what comes out -------------------------------------------------------------------------

    def check_books(self, *, idle: bool) -> None:
        """Verify that allocated + free = total on every replica.

        Raises:
            InfersimError: the books of a pool are wrong, or blocks leaked.
        """
        for server in self._front.servers:
            replica = server.replica
            held = replica.pool.check()
            if idle and (held or replica.pool.free != replica.pool.total):
                raise InfersimError(
                    f"replica {server.number} leaked KV: {replica.pool.total - replica.pool.free} "
                    f"of {replica.pool.total} blocks are held with nothing running"
                )
            kept = replica.swap.check() if replica.swap is not None else 0
            if idle and kept:
                raise InfersimError(
                    f"replica {server.number} leaked swap space: {kept} slots are held with "
                    "nothing running"
                )
        caches = [(one.number, one.replica.encoder) for one in self._front.servers]
        caches += [(one.number, one.replica.cache) for one in self._front.encoders.values()]
        for number, cache in caches:
            if idle and cache.held_tokens:
                raise InfersimError(
                    f"replica {number} leaked encoder outputs: {cache.held_tokens} tokens are held "
                    "with nothing running"
                )

    def _played(self, steps: int, link_bytes: int, link_busy_ps: Picoseconds) -> Played:
        """The records, when nothing is left to happen.

        Raises:
            NoProgressError: requests are left that nothing can serve.
            InfersimError: the books of a pool are wrong, or blocks leaked.
        """
        front = self._front
        if front.open_requests:
            raise NoProgressError(
                f"the run stands still with {front.open_requests} requests unanswered"
            )
        self.check_books(idle=True)
        servers, journal = front.servers, front.journal
        busy: list[S | Encoder] = [*servers, *front.encoders.values()]
        totals = {
            "steps": steps,
            "preemptions": journal.preemptions,
            "evicted_blocks": sum(server.replica.pool.evicted for server in servers),
            "kv_blocks": sum(server.replica.pool.total for server in servers),
            "replicas": len(busy),
            "busy_ps": sum(one.busy_ps for one in busy),
            "simulated_ps": max((one.last_end for one in busy), default=0),
            "link_bytes": link_bytes,
            "link_busy_ps": link_busy_ps,
            **front.travel_totals,
            **offloaded(front.offloads),
            **swapped(server.replica.swap for server in servers),
            **time_by_grade(one.ledger for one in busy),
        }
        return Played(journal.request_arrays(), journal.series.arrays(), front.gaps, totals)


def _nobody_waits(result: CallResult) -> None:
    """Open-loop clients do not care."""
