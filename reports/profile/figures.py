"""Figures of a profile. Dots are measured, lines are the table that a simulation reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from ..figures.bars import Part, bars
from ..figures.style import (
    MARKERS,
    PALETTE,
    Figure,
    Key,
    axis,
    digits,
    layout,
    log_axis,
)
from ..text import percent, significant

Data = dict[str, Any]

_GRADES = {
    "measured": PALETTE[0],
    "interpolated": PALETTE[5],
    "extrapolated": PALETTE[1],
    "transferred": PALETTE[4],
    "datasheet": PALETTE[3],
}
_AXES = {
    "tokens": "tokens of the step",
    "sequences": "sequences of the step",
    "context_tokens": "mean KV tokens of a sequence",
    "prefix": "KV tokens before the chunk, plus one",
    "bytes": "bytes",
    "experts": "experts",
}


def operation(one: Data) -> Figure | None:
    """Seconds of one launch over its (second) axis, one colour a slice; None for one point."""
    shift = 1 if one["axes"][-1] == "prefix" else 0  # a log axis has no zero
    xs = [x + shift for s in one["slices"] for x, _ in s["points"]]
    ys = [y * 1e6 for s in one["slices"] for _, y in s["points"]]
    if len(set(xs)) < 2 or min(ys) <= 0:
        return None
    data: list[Data] = []
    names = [s["name"] for s in one["slices"]]
    for n, part in enumerate(one["slices"]):
        color = PALETTE[n % len(PALETTE)]
        data.append(_line(part, shift, color))
        mine = [m for m in one["measured"] if _slice_name(one, m) == part["name"]]
        if mine:
            data.append(_dots(mine, shift, color, MARKERS[n % len(MARKERS)]))
    low = min([*ys, *(1e6 * m["seconds"] for m in one["measured"])])
    high = max([*ys, *(1e6 * m["seconds"] for m in one["measured"])])
    frame = layout(
        320,
        xaxis=log_axis(_AXES.get(one["axes"][-1], one["axes"][-1]), max(min(xs), 1), max(xs)),
        yaxis=log_axis("µs a launch", low, high),
    )
    keys = [Key(name, PALETTE[n % len(PALETTE)], "solid") for n, name in enumerate(names) if name]
    count = len(one["all"])
    title = f"{one['op']}: {count} points measured" if count else f"{one['op']}: the table"
    return Figure(title, _range(one["op"], ys), data, frame, keys)


def residuals(operations: Sequence[Data]) -> Figure | None:
    """Relative errors of points foretold without them, over their time."""
    data, keys, errors = [], [], []
    shown = [one for one in operations if any(m["error"] is not None for m in one["all"])]
    for n, one in enumerate(shown):
        found = [m for m in one["all"] if m["error"] is not None]
        color, marker = PALETTE[n % len(PALETTE)], MARKERS[n // len(PALETTE) % len(MARKERS)]
        errors += [abs(m["error"]) for m in found]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": one["op"],
                "x": digits(1e6 * m["seconds"] for m in found),
                "y": digits(100 * m["error"] for m in found),
                "marker": {"color": color, "symbol": marker, "size": 7},
                "hovertemplate": f"{one['op']}<br>%{{x:.4~g}} µs: %{{y:+.3~g}} %<extra></extra>",
            }
        )
        keys.append(Key(one["op"], color))
    if not errors:
        return None
    xs = [1e6 * m["seconds"] for one in shown for m in one["all"]]
    title = f"Left out, half of the points are foretold within {percent(median(errors))}"
    frame = layout(
        340,
        xaxis=log_axis("measured µs a launch", min(xs), max(xs)),
        yaxis=axis("foretold − measured, %", zeroline=True),
    )
    return Figure(title, title, data, frame, keys)


def roofline(operations: Sequence[Data], peaks: Data | None) -> Figure | None:
    """Operations a second over operations a byte, beside the datasheet's two limits."""
    data, keys = [], []
    places: list[tuple[float, float]] = []
    for n, one in enumerate(one for one in operations if one["all"]):
        found = [m for m in one["all"] if m["flops"] > 0 and m["bytes"] > 0]
        if not found:
            continue
        color, marker = PALETTE[n % len(PALETTE)], MARKERS[n // len(PALETTE) % len(MARKERS)]
        mine = [(m["flops"] / m["bytes"], m["flops"] / m["seconds"] / 1e9) for m in found]
        places += mine
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": one["op"],
                "x": digits(x for x, _ in mine),
                "y": digits(y for _, y in mine),
                "marker": {"color": color, "symbol": marker, "size": 7},
                "hovertemplate": f"{one['op']}<br>%{{x:.3~g}} a byte: %{{y:.4~g}} G/s"
                "<extra></extra>",
            }
        )
        keys.append(Key(one["op"], color))
    if not places:
        return None
    xs, ys = [x for x, _ in places], [y for _, y in places]
    title = f"The fastest operation does {significant(max(ys) / 1e3)} T operations a second"
    if peaks:
        data.append(_roof(peaks, min(xs), max(xs)))
        keys.append(Key(f"datasheet of {peaks['name']}", "#9aa0a6", "dash"))
        share = max(y * 1e9 / min(peaks["flops"], x * peaks["bytes_per_s"]) for x, y in places)
        title = f"At best {percent(share)} of the datasheet's roofline"
        ys.append(peaks["flops"] / 1e9)
    frame = layout(
        360,
        xaxis=log_axis("operations a byte", min(xs), max(xs)),
        yaxis=log_axis("G operations a second", min(ys), max(ys)),
    )
    return Figure(title, title, data, frame, keys)


def coverage(rows: Sequence[Data]) -> Figure:
    """Shares of each table's points by grade."""
    names = [grade for grade in _GRADES if any(grade in row["grades"] for row in rows)]
    parts = [
        Part(grade, _GRADES[grade], [100 * row["grades"].get(grade, 0.0) for row in rows])
        for grade in names
    ]
    shown = [f"{row['points']:,} points" for row in rows]
    data, frame = bars(
        [row["op"] for row in rows], shown, parts, "points of the table, %", x_max=100
    )
    beyond = [
        row["op"]
        for row in rows
        if row["grades"].get("measured", 0) + row["grades"].get("interpolated", 0) < 0.5
    ]
    title = "Most of every table is measured or interpolated"
    if beyond:
        title = f"Mostly beyond what was measured: {', '.join(beyond)}"
    return Figure(title, title, data, frame, [Key(grade, _GRADES[grade]) for grade in names])


def steps(rows: Sequence[Data]) -> Figure | None:
    """Whole steps: foretold over measured."""
    if not rows:
        return None
    kinds = ("decode", "mixed", "prefill")
    data: list[Data] = []
    for n, kind in enumerate(kinds):
        for fitted in (True, False):
            mine = [r for r in rows if r["kind"] == kind and r["fitted"] == fitted]
            if mine:
                data.append(
                    _step_dots(mine, f"{kind}, {'' if fitted else 'not '}fitted", n, fitted)
                )
    values = [1e3 * r[key] for r in rows for key in ("measured_s", "foretold_s")]
    low, high = min(values), max(values)
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": "#9aa0a6", "dash": "dash", "width": 1},
            "hoverinfo": "skip",
        }
    )
    held = [abs(r["foretold_s"] / r["measured_s"] - 1) for r in rows if not r["fitted"]]
    title = f"{len(rows)} whole steps"
    if held:
        title = f"Steps that were not fitted are foretold within {percent(median(held))} (median)"
    frame = layout(
        360,
        xaxis=log_axis("measured, ms", low, high),
        yaxis=log_axis("foretold, ms", low, high),
    )
    keys = [Key(kind, PALETTE[n]) for n, kind in enumerate(kinds)]
    return Figure(title + "; hollow: fitted", title, data, frame, keys)


def _line(part: Data, shift: int, color: str) -> Data:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": part["name"],
        "x": [x + shift for x, _ in part["points"]],
        "y": digits(1e6 * y for _, y in part["points"]),
        "line": {"color": color, "width": 1.5},
        "hovertemplate": f"table {part['name']}<br>%{{x:,}}: %{{y:.4~g}} µs<extra></extra>",
    }


def _dots(mine: Sequence[Data], shift: int, color: str, marker: str) -> Data:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [m["x"] + shift for m in mine],
        "y": digits(1e6 * m["seconds"] for m in mine),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": digits(1e6 * (m["high"] - m["seconds"]) for m in mine),
            "arrayminus": digits(1e6 * (m["seconds"] - m["low"]) for m in mine),
            "thickness": 1,
            "width": 2,
        },
        "marker": {
            "color": color,
            "size": 7,
            "symbol": [marker + ("-open" if m["noisy"] else "") for m in mine],
        },
        "hovertemplate": "measured<br>%{x:,}: %{y:.4~g} µs<extra></extra>",
    }


def _step_dots(mine: Sequence[Data], name: str, n: int, fitted: bool) -> Data:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": digits(1e3 * r["measured_s"] for r in mine),
        "y": digits(1e3 * r["foretold_s"] for r in mine),
        "marker": {
            "color": PALETTE[n],
            "symbol": MARKERS[n] + ("-open" if fitted else ""),
            "size": 8,
        },
        "hovertemplate": f"{name}<br>measured %{{x:.4~g}} ms, foretold %{{y:.4~g}} ms"
        "<extra></extra>",
    }


def _roof(peaks: Data, low: float, high: float) -> Data:
    ridge = peaks["flops"] / peaks["bytes_per_s"]
    xs = sorted({low, min(max(ridge, low), high), high})
    return {
        "type": "scatter",
        "mode": "lines",
        "x": digits(xs),
        "y": digits(min(peaks["flops"], x * peaks["bytes_per_s"]) / 1e9 for x in xs),
        "line": {"color": "#9aa0a6", "dash": "dash", "width": 1.5},
        "hoverinfo": "skip",
    }


def _slice_name(one: Data, measured: Data) -> str:
    first = measured["slice"]
    return "" if first is None else f"{one['axes'][0]} {first:g}"


def _range(op: str, ys_us: Sequence[float]) -> str:
    low, high = min(ys_us), max(ys_us)
    decades = math.log10(high / low) if low > 0 else 0.0
    return f"{op}: {significant(low)} to {significant(high)} µs a launch, {decades:.1f} decades"
