"""What stands between a comparison and its meaning: differing capacity, settings, workload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .measured import Measured
from .pace import Pace
from .simulated import Simulation

#: KV capacity further off than this is no longer a detail: 5 % of it moved TTFT by 3 to 5 %
KV_TOLERANCE = 0.005


def caveats(
    cell: dict[str, Any], measured: Sequence[Measured], simulation: Simulation, *, traced: bool
) -> dict[str, list[str]]:
    """Sentences by weight: ``warnings`` that make figures incomparable, and ``notes``."""
    first, ours = measured[0], simulation.run
    warnings = [
        *_capacity(cell["capacity"], first),
        *_workload(cell, first, ours),
        *(
            f"the run had {row['key']} = {row['measured']}, the scenario has {row['simulated']}"
            for row in cell["settings"]
        ),
    ]
    modelled = [run.name for run in measured if run.timed_by]
    if modelled:
        warnings.append(
            f"the times of {', '.join(modelled)} are a cost model's ({measured[0].format}): only "
            "its decisions are evidence"
        )
    unfinished = [run.unfinished for run in (*measured, ours)]
    if len(set(unfinished)) > 1:
        *theirs, mine = unfinished
        shown = ", ".join(map(str, theirs))
        warnings.append(f"requests without an answer: {shown} measured, {mine} simulated")
    if any(part.startswith("datasheet") for part in simulation.source.split("; ")):
        warnings.append(f"step times are not calibrated on this GPU: {simulation.source}")
    notes = [note for run in (*measured, ours) for note in run.notes]
    if len({run.clock for run in measured}) > 1:
        warnings.append("some of the measured runs have the client's clock, some the server's")
    if first.steps is not None and not traced:
        notes.append("the run has a step log that was not compared")
    host = cell["steps"] and cell["steps"]["pace"]
    if host:
        notes.append(Pace(**host).told())
    if first.series is None:
        notes.append("the run has no time series")
    if "itl_s" not in {row["metric"] for row in cell["rows"]}:
        notes.append("the run has no gaps between tokens: ITL is not compared")
    return {"warnings": warnings, "notes": list(dict.fromkeys(notes))}


def _capacity(capacity: dict[str, Any], first: Measured) -> list[str]:
    error = capacity["error"]
    if error is None:
        return [f"{first.name} does not say its KV capacity: the first thing to know is unknown"]
    if abs(error) <= KV_TOLERANCE:
        return []
    return [
        f"KV capacity is {error:+.1%} off ({capacity['measured']:,} {capacity['unit']} measured, "
        f"{capacity['simulated']:,} simulated): set cluster.kv_blocks before judging latencies"
    ]


def _workload(cell: dict[str, Any], first: Measured, ours: Measured) -> list[str]:
    theirs, mine = first.requests, ours.requests
    if cell["paired"] or theirs is None or mine is None:
        return []
    if not len(mine):
        return ["no request of the simulation was answered"]
    rows = [
        f"{len(r):,} of {r.prompt_tokens.mean():,.0f} + {r.output_tokens.mean():,.0f} tokens"
        for r in (theirs, mine)
    ]
    reason = "the requests are not the same ones"
    if theirs.arrival_s is None:
        reason = "requests cannot be paired, as their arrivals are not known"
    return [f"{reason}: {rows[0]} measured, {rows[1]} simulated (means)"]
