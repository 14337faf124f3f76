"""Two step logs beside each other: the first decision that differs, and the error of step times.

A step is told by its replica and number. Its time is from its start, or from the end of the step
before it where that is later: engines that plan ahead start steps while another runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...sim.cost.base import StepCost, StepShape
from .measured import Floats
from .pace import at_pace, pace, ratios

Table = dict[str, NDArray[Any]]

#: columns that say what was decided, as shown to the reader; `digest` holds who exactly
PLAN = (
    "decodes",
    "decode_context_tokens",
    "prefill_chunks",
    "prefill_tokens",
    "prefill_context_tokens",
    "samples",
    "admitted",
    "preempted",
    "hit_tokens",
    "remote_tokens",
)
KINDS = ("decode", "mixed", "prefill")
SAME_PACE = "same pace"  #: steps of any kind that the host computed at the calibration's pace
MOST_POINTS = 3000


def compare(
    measured: Table,
    simulated: Table,
    costs: Sequence[StepCost | None],
    repeats: Sequence[Table] = (),
    pace_s: float = 0.0,
) -> dict[str, Any]:
    """Decisions and step times of two logs (columns of `sim.state.steps`).

    Args:
        repeats: logs of the same run, measured again: how far its own steps lie apart.
        costs: the cost model of each replica, by number; None where it prices no step alone.
            Steps after the first difference have no counterpart; they are priced by it where the
            log says their work exactly.
        pace_s: of the host when these were calibrated; 0: not known.
    """
    ours = dict(_by_replica(simulated))
    same, first = 0, None
    error, kind, at_s, paces = [], [], [], []
    left_out = 0
    for replica, theirs in _by_replica(measured):
        mine = ours.get(replica, {name: column[:0] for name, column in simulated.items()})
        equal = _equal_steps(theirs, mine)
        same += equal
        found = _difference(replica, theirs, mine, equal)
        if found is not None and (first is None or found["at_s"] < first["at_s"]):
            first = found
        took = _took(theirs)
        told = np.concatenate(
            [
                _took(mine)[:equal],
                _priced(theirs, equal, costs[replica] if replica < len(costs) else None),
            ]
        )
        usable = (took > 0) & ~np.isnan(told)
        left_out += int((~usable).sum())
        error.append(told[usable] / took[usable] - 1)
        kind.append(_kinds(theirs)[usable])
        paces.append(ratios(theirs, pace_s)[usable])
        at_s.append(theirs["start_ps"][usable] / 1e12)
    errors, kinds, times_s = np.concatenate(error), np.concatenate(kind), np.concatenate(at_s)
    ratio = np.concatenate(paces)
    host = pace(ratio)
    weights = _weights(measured, simulated)
    return {
        "measured": len(measured["step"]),
        "simulated": len(simulated["step"]),
        "same": same,
        "first_difference": first,
        "times": _with_noise(_errors(errors, kinds, ratio), measured, repeats, pace_s),
        "pace": host and host._asdict(),
        "left_out": left_out,
        "points": _points(times_s, errors, kinds),
        **weights,
    }


def _by_replica(table: Table) -> list[tuple[int, Table]]:
    """Rows of each replica in the order of its steps."""
    found = []
    for replica in np.unique(table["replica"]).tolist():
        mine = np.flatnonzero(table["replica"] == replica)
        mine = mine[np.argsort(table["step"][mine], kind="stable")]
        found.append((replica, {name: column[mine] for name, column in table.items()}))
    return found


def _equal_steps(theirs: Table, mine: Table) -> int:
    """How many steps from the first on were decided alike."""
    count = min(len(theirs["step"]), len(mine["step"]))
    unequal = np.zeros(count, dtype=np.bool_)
    for name in ("step", "digest", *PLAN):
        unequal |= theirs[name][:count] != mine[name][:count]
    at = np.flatnonzero(unequal)
    return int(at[0]) if len(at) else count


def _difference(replica: int, theirs: Table, mine: Table, at: int) -> dict[str, Any] | None:
    """Both plans of the first step that differs; None where all are equal."""
    if at == len(theirs["step"]) == len(mine["step"]):
        return None
    plans = {"measured": _plan(theirs, at), "simulated": _plan(mine, at)}
    there = theirs if at < len(theirs["step"]) else mine
    return {
        "replica": replica,
        "step": int(there["step"][at]),
        "at_s": float(there["start_ps"][at]) / 1e12,
        **plans,
    }


def _plan(table: Table, at: int) -> dict[str, Any] | None:
    """What was decided in a step; None where the run had ended before it."""
    if at >= len(table["step"]):
        return None
    plan: dict[str, Any] = {name: int(table[name][at]) for name in PLAN}
    return plan | {"digest": f"{int(table['digest'][at]):016x}"}


def _took(table: Table) -> Floats:
    """Picoseconds of each step."""
    start, end = table["start_ps"], table["end_ps"]
    before = np.concatenate([start[:1], end[:-1]])
    return np.asarray(end - np.maximum(start, before), dtype=np.float64)


def _priced(table: Table, first: int, cost: StepCost | None) -> Floats:
    """What *cost* says of the steps from *first* on; NaN where several prompts are mixed."""
    if cost is None:
        return np.full(len(table["step"]) - first, np.nan)
    columns = [table[name][first:].tolist() for name in PLAN[:6]]
    found = []
    for decodes, context, chunks, tokens, before, samples in zip(*columns, strict=True):
        prefills = ((tokens, before),) if chunks else ()
        shape = StepShape(decodes, context, prefills, samples)
        found.append(float(cost.duration_ps(shape)) if chunks < 2 else np.nan)
    return np.array(found, dtype=np.float64)


def _kinds(table: Table) -> NDArray[np.str_]:
    prefill, decode = table["prefill_chunks"] > 0, table["decodes"] > 0
    return np.where(prefill & decode, "mixed", np.where(prefill, "prefill", "decode"))


def _errors(errors: Floats, kinds: NDArray[np.str_], ratio: Floats) -> list[dict[str, Any]]:
    """Over all steps, by kind, and over those at the calibration's pace, where it is known.

    Median and p95 of the size of the error, and its mean.
    """
    found = []
    for name in ("all", *KINDS, SAME_PACE):
        mine = errors[_of(name, kinds, ratio)]
        if len(mine):
            size = np.abs(mine)
            found.append(
                {
                    "kind": name,
                    "n": len(mine),
                    "median": float(np.median(size)),
                    "p95": float(np.percentile(size, 95)),
                    "bias": float(mine.mean()),
                }
            )
    return found


def _with_noise(
    rows: list[dict[str, Any]], measured: Table, repeats: Sequence[Table], pace_s: float
) -> list[dict[str, Any]]:
    """*rows* with "noise": the median difference between equal steps of two runs, None without."""
    apart: list[Floats] = [np.empty(0)]
    kind: list[NDArray[np.str_]] = [np.empty(0, dtype=np.str_)]
    slower: list[Floats] = [np.empty(0)]
    for again in repeats:
        (plans, took, ratio), (others, theirs, its) = (_timed(t, pace_s) for t in (measured, again))
        _, here, there = np.intersect1d(plans, others, return_indices=True)
        first, second = took[here], theirs[there]
        usable = (first > 0) & (second > 0)
        apart.append(np.abs(second[usable] / first[usable] - 1))
        kind.append(_kinds(_in_order(measured))[here][usable])
        slower.append(np.maximum(ratio[here], its[there])[usable])
    sizes, kinds, ratio = np.concatenate(apart), np.concatenate(kind), np.concatenate(slower)
    for row in rows:
        mine = sizes[_of(row["kind"], kinds, ratio)]
        row["noise"] = float(np.median(mine)) if len(mine) else None
    return rows


def _of(name: str, kinds: NDArray[np.str_], ratio: Floats) -> NDArray[np.bool_]:
    """The steps that a row counts."""
    if name == SAME_PACE:
        return at_pace(ratio)
    return np.full(len(kinds), True) if name == "all" else kinds == name


def _timed(table: Table, pace_s: float) -> tuple[NDArray[np.uint64], Floats, Floats]:
    """What tells the steps of all replicas apart, what they took, and the host's pace."""
    parts = [
        (part["digest"] + np.uint64(n), _took(part), ratios(part, pace_s))
        for n, part in _by_replica(table)
    ]
    plans, took, ratio = zip(*parts, strict=True)
    return np.concatenate(plans), np.concatenate(took), np.concatenate(ratio)


def _in_order(table: Table) -> Table:
    """The rows replica by replica."""
    parts = [part for _, part in _by_replica(table)]
    return {name: np.concatenate([part[name] for part in parts]) for name in table}


def _weights(measured: Table, simulated: Table) -> dict[str, Any]:
    """Seconds that replicas were busy, summed."""
    return {
        f"{name}_busy_s": sum(float(_took(rows).sum()) for _, rows in _by_replica(table)) / 1e12
        for name, table in (("measured", measured), ("simulated", simulated))
    }


def _points(times_s: Floats, errors: Floats, kinds: NDArray[np.str_]) -> dict[str, Any]:
    """Some of the steps to draw, evenly taken, in the order of time."""
    order = np.argsort(times_s, kind="stable")
    order = order[:: max(1, -(-len(order) // MOST_POINTS))]
    return {
        "t_s": times_s[order].tolist(),
        "error": errors[order].tolist(),
        "kind": kinds[order].tolist(),
        "of": len(times_s),
    }
