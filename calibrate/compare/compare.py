"""One cell beside what was measured of it, as plain data for the page, the terminal and JSON.

Errors are signed and relative to the measured value: −0.03 where the simulation is 3 % below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import series, steps
from .caveats import caveats
from .figures import LATENCIES, RATES, STATISTICS, after, figures, latencies
from .measured import Figures, Measured, Requests
from .perturb import Change
from .simulated import Simulation

#: what is compared: figure, its statistics, and whether its error is a difference of shares
COMPARED = (
    *((metric, STATISTICS, False) for metric in LATENCIES),
    *((metric, ("value",), False) for metric in (*RATES, "duration_s")),
    ("hit_rate", ("value",), True),
    ("preemptions", ("value",), False),
    ("steps", ("value",), False),
)


class Varied(NamedTuple):
    """The simulation after a small change."""

    change: Change
    run: Measured


def compare(
    name: str,
    measured: Sequence[Measured],
    simulation: Simulation,
    varied: Sequence[Varied] = (),
    *,
    warm_up_s: float = 0.0,
) -> dict[str, Any]:
    """Everything that can be compared of one cell.

    Args:
        measured: repeats of the same run, at least one; figures are their means, and how far
            they lie apart is the noise. Series and steps are the first one's.
        varied: the simulation with small changes, for its sensitivity.
        warm_up_s: requests that arrived before this are left out on both sides.
    """
    first, ours = measured[0], simulation.run
    theirs = [figures(run, warm_up_s) for run in measured]
    mine = figures(ours, warm_up_s)
    others = [(one.change.name, figures(one.run, warm_up_s)) for one in varied]
    rows = [
        row
        for metric, stats, shares in COMPARED
        for stat in stats
        if (row := _row(metric, stat, shares, theirs, mine, others)) is not None
    ]
    both_steps = first.steps is not None and ours.steps is not None
    cell: dict[str, Any] = {
        "name": name,
        "measured": [_origin(run) for run in measured],
        "step_times": simulation.source,
        "capacity": _capacity(first, ours),
        "settings": _settings(first, simulation),
        "paired": paired(first.requests, ours.requests),
        "rows": rows,
        "ttft_share_of_e2e": _ttft_share(rows),
        "steps": (
            steps.compare(
                first.steps,
                ours.steps,
                simulation.costs,
                [run.steps for run in measured[1:] if run.steps is not None],
                simulation.pace_s,
            )
            if first.steps is not None and ours.steps is not None
            else None
        ),
        "series": series.compare(first.series, ours.series),
        "samples": _samples(first, ours, warm_up_s),
    }
    return cell | {"caveats": caveats(cell, measured, simulation, traced=both_steps)}


def value_of(cell: dict[str, Any], metric: str, stat: str) -> dict[str, Any] | None:
    """The row of a figure; None where it could not be compared."""
    rows = (row for row in cell["rows"] if row["metric"] == metric and row["stat"] == stat)
    return next(rows, None)


def paired(a: Requests | None, b: Requests | None) -> bool:
    """Whether the requests of both are the same ones: as many, and of the same lengths in order."""
    return (
        a is not None
        and b is not None
        and a.arrival_s is not None
        and len(a) == len(b) > 0
        and bool((a.prompt_tokens == b.prompt_tokens).all())
        and bool((a.output_tokens == b.output_tokens).all())
    )


def _row(
    metric: str,
    stat: str,
    shares: bool,
    theirs: Sequence[Figures],
    mine: Figures,
    others: Sequence[tuple[str, Figures]],
) -> dict[str, Any] | None:
    values = [found[metric][stat] for found in theirs if stat in found.get(metric, {})]
    simulated = mine.get(metric, {}).get(stat)
    if len(values) < len(theirs) or simulated is None:
        return None
    measured = float(np.mean(values))
    spread = (max(values) - min(values)) / 2
    noise = None if len(values) < 2 else _relative(spread, measured, shares)
    changes = {
        name: _error(found[metric][stat], simulated, shares)
        for name, found in others
        if stat in found.get(metric, {})
    }
    counts = [found[metric].get("n") for found in (*theirs, mine)]
    return {
        "metric": metric,
        "stat": stat,
        "measured": measured,
        "simulated": simulated,
        "error": _error(simulated, measured, shares),
        "share": shares,
        "noise": noise,
        "n": min((int(n) for n in counts if n is not None), default=None),
        "changes": changes,
    }


def _error(value: float, truth: float, shares: bool) -> float | None:
    return _relative(value - truth, truth, shares)


def _relative(difference: float, truth: float, shares: bool) -> float | None:
    if shares:
        return difference
    if not truth:
        return None if difference else 0.0
    return difference / truth


def _ttft_share(rows: Sequence[dict[str, Any]]) -> float | None:
    """Error of the mean TTFT as a share of the mean E2E: queueing amplifies the former."""
    means = {row["metric"]: row for row in rows if row["stat"] == "mean"}
    if "ttft_s" not in means or not means.get("e2e_s", {}).get("measured"):
        return None
    ttft = means["ttft_s"]
    return float((ttft["simulated"] - ttft["measured"]) / means["e2e_s"]["measured"])


def _origin(run: Measured) -> dict[str, Any]:
    return {
        "name": run.name,
        "format": run.format,
        "clock": run.clock,
        "requests": None if run.requests is None else len(run.requests),
        "unfinished": run.unfinished,
    }


def _capacity(theirs: Measured, ours: Measured) -> dict[str, Any]:
    """Usable KV of all replicas in blocks, or in tokens where the blocks differ in size."""
    a, b, unit = theirs.kv_blocks, ours.kv_blocks, "blocks"
    sizes = theirs.block_size or 0, ours.block_size or 0
    if a is not None and b is not None and all(sizes) and sizes[0] != sizes[1]:
        a, b, unit = a * sizes[0], b * sizes[1], "tokens"
    error = None if a is None or b is None else _error(float(b), float(a), shares=False)
    return {"measured": a, "simulated": b, "unit": unit, "error": error}


def _settings(theirs: Measured, simulation: Simulation) -> list[dict[str, Any]]:
    """Settings that both know and that differ."""
    ours = simulation.settings
    return [
        {"key": key, "measured": value, "simulated": ours[key]}
        for key, value in theirs.settings.items()
        if key in ours and ours[key] is not None and ours[key] != value
    ]


def _samples(theirs: Measured, ours: Measured, warm_up_s: float) -> dict[str, Any]:
    """Latencies of every request on both sides, for figures; empty where there are only means."""
    if theirs.requests is None or ours.requests is None:
        return {}
    sides = {"measured": theirs.requests, "simulated": ours.requests}
    kept = {side: after(requests, warm_up_s) for side, requests in sides.items()}
    return {
        metric: {side: latencies(requests)[metric].tolist() for side, requests in kept.items()}
        for metric in ("ttft_s", "tpot_s", "e2e_s")
    }
