"""When things start: arrival processes, as endless or finite streams of seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, repeat
from math import cos, pi
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...policies.errors import InputError
from ..schema.base import Spec
from ..traces.load import load
from .shorthand import NotNegative, Number, Positive, Share, found


class Poisson(Spec):
    """Independent arrivals at a constant rate."""

    kind: Literal["poisson"]
    rate_rps: Positive = Field(description="arrivals per second")

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Arrival times in seconds, in order, without end."""
        return _summed(lambda n: rng.exponential(1 / self.rate_rps, n))


class GammaGaps(Spec):
    """Independent gaps, burstier (cv above 1) or more regular (below 1) than Poisson."""

    kind: Literal["gamma"]
    rate_rps: Positive = Field(description="arrivals per second")
    cv: Annotated[float, Field(gt=0, le=100)] = Field(
        description="standard deviation / mean of the gaps; 1 is Poisson"
    )

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Arrival times in seconds, in order, without end."""
        shape = 1 / (self.cv * self.cv)
        return _summed(lambda n: rng.gamma(shape, 1 / (shape * self.rate_rps), n))


class State(Spec):
    """One state of a Markov-modulated process."""

    rate_rps: NotNegative = Field(description="arrivals per second while in it; may be 0")
    mean_stay_s: Positive = Field(description="how long it lasts on average, seconds")


class Bursts(Spec):
    """Markov-modulated Poisson process: calm and bursts, visited in turn."""

    kind: Literal["mmpp"]
    states: tuple[State, ...] = Field(
        min_length=1, max_length=1000, description="visited in this order, then from the first"
    )

    @model_validator(mode="after")
    def _arrive(self) -> Bursts:
        if sum(state.rate_rps * state.mean_stay_s for state in self.states) < 1e-3:
            raise InputError("fewer than one arrival in a thousand rounds of the states")
        return self

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Arrival times in seconds, in order, without end."""
        now = 0.0
        while True:
            for state in self.states:
                end = now + float(rng.exponential(state.mean_stay_s))
                while state.rate_rps:
                    now += float(rng.exponential(1 / state.rate_rps))
                    if now >= end:  # memoryless: what is left of the gap is drawn anew
                        break
                    yield now
                now = end


class Diurnal(Spec):
    """Poisson with a rate that swings like a cosine."""

    kind: Literal["diurnal"]
    rate_rps: Positive = Field(description="mean arrivals per second")
    swing: Share = Field(
        default=0.8, description="the rate goes from (1 - swing) to (1 + swing) times the mean"
    )
    period_s: Positive = Field(default=86_400.0, description="one cycle, seconds")
    peak_s: NotNegative = Field(default=43_200.0, description="when the rate is highest, seconds")

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Arrival times in seconds, in order, without end."""
        highest = self.rate_rps * (1 + self.swing)
        for at in _summed(lambda n: rng.exponential(1 / highest, n)):
            phase = 2 * pi * (at - self.peak_s) / self.period_s
            if rng.random() * highest < self.rate_rps * (1 + self.swing * cos(phase)):
                yield at


class Constant(Spec):
    """Equal gaps."""

    kind: Literal["constant"]
    rate_rps: Positive = Field(description="arrivals per second")

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Arrival times in seconds, in order, without end."""
        return (i / self.rate_rps for i in count())


class AtOnce(Spec):
    """Everything at the start."""

    kind: Literal["all-at-once"]

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Zeros, without end."""
        return repeat(0.0)


class TraceTimes(Spec):
    """The timestamps of a trace; nothing else of it."""

    kind: Literal["trace"]
    file: str = Field(description="a trace with arrival times, of any supported format")
    time_scale: Positive = Field(
        default=1.0, description="2: gaps twice as long, half the rate of the trace"
    )

    def times_s(self, rng: np.random.Generator, folders: Sequence[Path]) -> Iterator[float]:
        """Arrival times in seconds from the first one on, as many as the trace has.

        Raises:
            InputError: no such file, or one without arrival times.
        """
        path = found(self.file, folders)
        if path is None:
            raise InputError(f"no file {self.file}", where="arrivals.file")
        trace = load(path)
        if not trace.timed:
            raise InputError(f"{trace.format} traces have no arrival times", where=trace.file)
        times = [row.at_s or 0.0 for row in trace.rows]
        return ((at - times[0]) * self.time_scale for at in times)


Arrivals = Annotated[
    Annotated[
        Poisson | GammaGaps | Bursts | Diurnal | Constant | AtOnce | TraceTimes,
        Field(discriminator="kind"),
    ],
    Number("poisson", "rate_rps"),
]


def _summed(gaps: Callable[[int], npt.NDArray[np.float64]]) -> Iterator[float]:
    """Running sums of gaps that are drawn a thousand at a time."""
    now = 0.0
    while True:
        times = now + np.cumsum(gaps(1000))
        yield from times.tolist()
        now = float(times[-1])
