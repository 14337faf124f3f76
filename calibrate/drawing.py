"""A profile as plain data for the page that `reports.profile` makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..sim.cost.profile import Profile, Table
from .assemble.build import Assembled
from .assemble.fitted import Fitted
from .assemble.quality import Quality

Data = dict[str, Any]

_MOST_SLICES = 6  # of a table of two axes


def drawing(profile: Profile, assembled: Assembled | None) -> Data:
    """What is drawn: every table as curves, and what was measured beside it.

    ``operations`` is a list of {op, axes, slices: [{name, points: [[x, seconds]]}], measured:
    [{slice, x, seconds, low, high, noisy, flops, bytes, error}]}; ``steps`` one of [measured s,
    foretold s, kind]; ``peaks`` of the device is None where no datasheet is meant.
    """
    fitted = assembled.fitted if assembled else {}
    qualities = assembled.qualities if assembled else {}
    return {
        "operations": [
            _operation(table, fitted.get(table.op), qualities.get(table.op))
            for table in profile.tables
            if table.op != "final_norm"  # the norm of the layers again
        ],
        "steps": _steps(assembled),
        "peaks": _peaks(profile, assembled),
    }


def _operation(table: Table, fitted: Fitted | None, quality: Quality | None) -> Data:
    if len(table.by) > 2:  # a mixed kernel: its two main axes at the others' least
        table = _thinned(table)
    firsts = sorted({point[0] for point in table.points}) if len(table.by) == 2 else []
    measured = _measured(fitted, quality)
    wanted = [m["slice"] for m in measured] if measured else firsts
    chosen = _spread(sorted({first for first in wanted if first in firsts}) or firsts)
    slices = [
        {"name": f"{table.by[0]} {first:g}", "points": _curve(table, first)} for first in chosen
    ] or [{"name": "", "points": [[p[0], p[1]] for p in sorted(table.points)]}]
    shown = [m for m in measured if not chosen or m["slice"] in chosen]
    return {
        "op": table.op,
        "axes": list(table.by),
        "slices": slices,
        "measured": shown,
        "all": measured,
    }


def _thinned(table: Table) -> Table:
    """A four-dimensional table at its smallest chunk and prefix: how decodes go through it."""
    least = min(point[:2] for point in table.points)
    kept = tuple(p[2:] for p in table.points if p[:2] == least)
    return table.model_copy(update={"by": table.by[2:], "points": kept, "grades": None})


def _measured(fitted: Fitted | None, quality: Quality | None) -> list[Data]:
    if fitted is None:
        return []
    errors = dict(quality.signed) if quality else {}
    return [
        {
            "slice": point.at[0] if len(point.at) > 1 else None,
            "x": point.at[-1],
            "seconds": s.median_s,
            "low": s.low_s,
            "high": s.high_s,
            "noisy": s.noisy,
            "flops": point.flops,
            "bytes": point.bytes,
            "error": errors.get(point.at),
        }
        for point, s in sorted(fitted.summaries.items(), key=lambda item: item[0].at)
    ]


def _curve(table: Table, first: float) -> list[list[float]]:
    return sorted([p[1], p[2]] for p in table.points if p[0] == first)


def _spread(values: list[float]) -> list[float]:
    """At most six of them, the ends included."""
    if len(values) <= _MOST_SLICES:
        return values
    last = len(values) - 1
    places: Iterable[int] = {round(i * last / (_MOST_SLICES - 1)) for i in range(_MOST_SLICES)}
    return [values[i] for i in sorted(places)]


def _steps(assembled: Assembled | None) -> list[Data]:
    if assembled is None or assembled.steps is None:
        return []
    return [row._asdict() for row in assembled.steps.rows]


def _peaks(profile: Profile, assembled: Assembled | None) -> Data | None:
    """The datasheet of the device; a CPU has none, and without samples nothing is drawn on it."""
    if profile.stamp.gpu == "cpu" or assembled is None:
        return None
    spec = assembled.gpu
    return {"flops": spec.bf16_flops, "bytes_per_s": spec.memory_bytes_per_s, "name": spec.name}
