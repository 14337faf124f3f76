"""How sessions come about: a stream of them, or a constant number of users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice, takewhile
from pathlib import Path

from pydantic import Field, model_validator

from ...policies.errors import InputError
from ...sim.state.session import Arrival, Session
from ...sim.state.streams import Streams
from ..schema.base import Spec
from .arrivals import Arrivals
from .built import picoseconds
from .shorthand import Count, Few, NotNegative, Positive


class PopulationSpec(Spec):
    """Either ``arrivals:`` (open: sessions start whatever happens) or ``concurrency:`` (closed)."""

    sessions: Count | None = Field(default=None, description="start so many sessions")
    duration_s: Positive | None = Field(
        default=None, description="start none after this; only with arrivals"
    )
    arrivals: Arrivals | None = Field(
        default=None, description="when sessions start; a number is a Poisson rate per second"
    )
    concurrency: Few | None = Field(
        default=None, description="so many at any time: each that ends is followed by the next"
    )
    ramp_s: NotNegative = Field(
        default=0.0, description="with concurrency: the first ones start evenly over this time"
    )

    @model_validator(mode="after")
    def _determined(self) -> PopulationSpec:
        check_population(self.arrivals, self.concurrency, self.duration_s, self.ramp_s)
        if self.arrivals is None and self.concurrency is None:
            raise InputError("arrivals (e.g. 0.5 a second) or concurrency (e.g. 32) is needed")
        if self.sessions is None and self.duration_s is None:
            raise InputError("sessions or duration_s is needed to end the workload")
        return self

    def starts(
        self, streams: Streams, folders: Sequence[Path], session: Callable[[int], Session]
    ) -> Iterator[Arrival]:
        """Arrivals of sessions 0, 1, …; *session* makes the one of that number when it is due."""
        if self.concurrency is not None:
            return users(self.concurrency, self.ramp_s, self.sessions, session)
        assert self.arrivals is not None
        times = self.arrivals.times_s(streams.get("arrivals"), folders)
        return timed(limited(times, self.sessions, self.duration_s), session)


def check_population(
    arrivals: Arrivals | None,
    concurrency: int | None,
    duration_s: float | None,
    ramp_s: float,
) -> None:
    """Refuse what does not go together.

    Raises:
        InputError: which, and what to write.
    """
    if concurrency is None:
        if ramp_s:
            raise InputError("ramp_s goes with concurrency")
        return
    if arrivals is not None:
        raise InputError("arrivals and concurrency exclude each other")
    if duration_s is not None:
        raise InputError("duration_s goes with arrivals; with concurrency give sessions")


def limited(times: Iterator[float], most: int | None, duration_s: float | None) -> Iterator[float]:
    """At most so many of *times*, none after *duration_s*."""
    if duration_s is not None:
        times = takewhile(lambda at: at <= duration_s, times)
    return islice(times, most)


def timed(times: Iterator[float], session: Callable[[int], Session]) -> Iterator[Arrival]:
    """One session at each of *times*."""
    for number, at in enumerate(times):
        yield Arrival(picoseconds(at), _later(session, number))


def users(
    concurrency: int, ramp_s: float, sessions: int | None, session: Callable[[int], Session]
) -> Iterator[Arrival]:
    """Users who run the next session that nobody has begun, until there are none."""
    numbers = iter(count() if sessions is None else range(sessions))
    present = concurrency if sessions is None else min(concurrency, sessions)

    def user() -> Session:
        for number in numbers:
            yield from session(number)
        return None

    for i in range(present):
        yield Arrival(picoseconds(ramp_s * i / present), user)


def _later(session: Callable[[int], Session], number: int) -> Callable[[], Session]:
    return lambda: session(number)
