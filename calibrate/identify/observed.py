"""What was timed: one step, or all the steps between two tokens of a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ...policies.errors import InputError
from ...sim.cost.base import StepShape
from ..compare.measured import Measured
from ..compare.simulated import Simulation

_FEWEST = 12  #: observations, below which nothing is fitted


class Observation(NamedTuple):
    """Seconds, and the steps that passed in them."""

    steps: tuple[StepShape, ...]
    seconds: float


@dataclass
class Run:
    """A run to fit to.

    Attributes:
        digest: SHA-256 of what was read.
        engine: whose run it is, as "vllm"; "" where nothing says.
        kv_blocks, block_size: None where nothing says.
        notes: what had to be assumed.
    """

    name: str
    format: str
    digest: str
    observations: list[Observation]
    engine: str = ""
    kv_blocks: int | None = None
    block_size: int | None = None
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Refuse a run that says too little.

        Raises:
            InputError: fewer than 12 observations.
        """
        if len(self.observations) < _FEWEST:
            raise InputError(
                f"{len(self.observations)} timed steps or requests are too few to fit to, "
                f"{_FEWEST} are needed",
                where=self.name,
            )


def steps_of(run: Measured) -> list[Observation]:
    """Every step of a step log; several chunks of a step count as equal ones.

    A step lasts from its start, or from the end of the one before it where that is later.
    """
    table = run.steps
    assert table is not None
    found = []
    for replica in sorted(set(table["replica"].tolist())):
        mine = {name: column[table["replica"] == replica] for name, column in table.items()}
        start, end = mine["start_ps"], mine["end_ps"]
        before = np.concatenate([start[:1], end[:-1]])
        took = (end - np.maximum(start, before)) / 1e12
        names = ("decodes", "decode_context_tokens", "prefill_chunks", "prefill_tokens")
        columns = [mine[name].tolist() for name in (*names, "prefill_context_tokens", "samples")]
        for seconds, row in zip(took.tolist(), zip(*columns, strict=True), strict=True):
            if seconds > 0:
                found.append(Observation((shape(*row),), seconds))
    return found


def shape(
    decodes: int, context: int, chunks: int, tokens: int, before: int, samples: int
) -> StepShape:
    """A step whose chunks are told by their sums only."""
    each = tuple(
        (tokens // chunks + (i < tokens % chunks), before // chunks) for i in range(chunks)
    )
    return StepShape(decodes, context, each, samples)


def requests_of(run: Measured, simulation: Simulation) -> list[Observation]:
    """Of every request the time from its first token to its last, and the simulated steps in it.

    Raises:
        InputError: the simulation is of other requests, or of several replicas.
    """
    theirs, ours, table = run.requests, simulation.run.requests, simulation.run.steps
    if theirs is None or ours is None or table is None or ours.arrival_s is None:
        raise InputError(f"{run.name} has neither steps nor requests", where="--from")
    if len(set(table["replica"].tolist())) != 1:
        raise InputError(
            "requests say what a step takes only where there is one replica",
            where="--scenario",
            help="cluster.replicas: 1",
        )
    if len(theirs) != len(ours) or (theirs.output_tokens != ours.output_tokens).any():
        raise InputError(
            f"the scenario does not have the requests of {run.name}: {len(ours)} simulated, "
            f"{len(theirs)} measured",
            where="--scenario",
        )
    names = ("decodes", "decode_context_tokens", "prefill_chunks", "prefill_tokens")
    columns = [table[name].tolist() for name in (*names, "prefill_context_tokens", "samples")]
    shapes = [shape(*row) for row in zip(*columns, strict=True)]
    ends = table["end_ps"] / 1e12 - _first_arrival(simulation)
    found = []
    for i in range(len(ours)):
        first, last = ours.arrival_s[i] + ours.ttft_s[i], ours.arrival_s[i] + ours.e2e_s[i]
        low, high = np.searchsorted(ends, [first + 1e-9, last + 1e-9])
        seconds = float(theirs.e2e_s[i] - theirs.ttft_s[i])
        if high > low and seconds > 0:
            found.append(Observation(tuple(shapes[low:high]), seconds))
    return found


def _first_arrival(simulation: Simulation) -> float:
    """Seconds from the start of the simulated clock to its first arrival.

    Arrivals count from the first; the first request is admitted by the first step.
    """
    table, requests = simulation.run.steps, simulation.run.requests
    assert table is not None
    assert requests is not None
    firsts = requests.arrival_s + requests.ttft_s if requests.arrival_s is not None else None
    assert firsts is not None
    ends = table["end_ps"][table["samples"] > 0] / 1e12
    return float(ends[0] - firsts.min())
