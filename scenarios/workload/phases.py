"""Open loops one after another: load that changes its kind, not only its rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ...policies.errors import InputError
from ...sim.state.content import Contents
from ...sim.state.session import Arrival
from ...sim.state.streams import Streams
from ..explain import PartError
from ..schema.base import Spec
from .built import BuiltWorkload, picoseconds
from .open_loop import OpenLoopSpec, Requests
from .population import limited
from .shorthand import Count


class PhasesSpec(Spec):
    """Open loops by turns; each begins when the time of the one before it is over."""

    kind: Literal["phases"]
    phases: tuple[OpenLoopSpec, ...] = Field(
        min_length=1, max_length=1000, description="open loops, each with its duration_s"
    )
    rounds: Count = Field(default=1, description="how often all of them come, in their order")

    @model_validator(mode="after")
    def _bounded(self) -> PhasesSpec:
        for i, phase in enumerate(self.phases):
            if phase.duration_s is None:
                error = InputError("a phase needs duration_s: the next one begins when it is over")
                raise PartError(error, "phases", i)
        return self

    def build(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path] = (Path(),),
        context_tokens: int | None = None,
    ) -> BuiltWorkload:
        """The workload; see `spec.WorkloadSpec` for the arguments."""
        return BuiltWorkload(self._arrivals(streams, contents, folders), False)

    def _arrivals(
        self, streams: Streams, contents: Contents, folders: Sequence[Path]
    ) -> Iterator[Arrival]:
        """Questions are numbered through all phases, so that none is asked twice."""
        parts = [streams.part("phase", i) for i in range(len(self.phases))]
        made = [
            Requests(phase, part, contents) for phase, part in zip(self.phases, parts, strict=True)
        ]
        clocks = [part.get("arrivals") for part in parts]
        start_s, number = 0.0, 0
        for _ in range(self.rounds):
            for phase, requests, rng in zip(self.phases, made, clocks, strict=True):
                assert phase.duration_s is not None
                times = phase.arrivals.times_s(rng, folders)
                for at in limited(times, phase.requests, phase.duration_s):
                    yield Arrival(picoseconds(start_s + at), requests.call(number))
                    number += 1
                start_s += phase.duration_s
