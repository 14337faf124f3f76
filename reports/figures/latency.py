"""Latency distributions, and where the time of the mean request went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...sim.state.records import CellRecords
from ..columns import LATENCIES
from ..metrics.goals import latencies_s
from ..metrics.stats import Floats
from ..metrics.window import Window
from ..text import percent, time_unit, times
from .bars import Part, bars
from .style import (
    PALETTE,
    Figure,
    Key,
    Line,
    axis,
    digits,
    label,
    layout,
    log_axis,
    plain,
    short_tag,
)

#: of a request's time, in order; `Window.split_s` has those that there are
PARTS = {
    "encode": PALETTE[3],
    "grammar": PALETTE[5],
    "queue": PALETTE[1],
    "prefill": PALETTE[2],
    "transfer": PALETTE[4],
    "decode": PALETTE[0],
}
_LEAST_S = 1e-6  # a log axis has no zero


def samples(cells: Sequence[CellRecords]) -> list[dict[str, Floats]]:
    """Latencies of the measured requests of every cell; TPOT without single-token answers."""
    found = []
    for cell in cells:
        window = Window.of(cell)
        tpot_s = window.tpot_s()
        found.append(latencies_s(window) | {"tpot_s": tpot_s[~np.isnan(tpot_s)]})
    return found


def ecdf(
    metric: str,
    drawn: Sequence[Line],
    values: Sequence[dict[str, Floats]],
    slo: dict[str, float],
    focus: int,
) -> Figure | None:
    """Share of requests within a latency, x log; None when no cell has a value."""
    curves = [(line, values[line.cell][metric]) for line in drawn if len(values[line.cell][metric])]
    if not curves:
        return None
    longest_s = max(float(found.max()) for _, found in curves)
    unit, scale = time_unit(longest_s)
    data = [_curve(line, np.maximum(found, _LEAST_S) * scale, unit) for line, found in curves]
    low = min(trace["x"][0] for trace in data)
    frame = layout(
        320,
        xaxis=log_axis(f"{LATENCIES[metric]}, {unit}", low, max(longest_s, _LEAST_S) * scale),
        yaxis=axis("requests within, %", range=[0, 103], tickvals=[0, 25, 50, 75, 90, 99]),
        annotations=_tags(curves, scale),
        shapes=[],
    )
    if metric in slo:
        _draw_limit(frame, slo[metric] * scale)
    title = _title(metric, curves, focus)
    return Figure(title, title, data, frame)


def _curve(line: Line, values: Floats, unit: str) -> dict[str, Any]:
    levels = np.concatenate([np.linspace(0, 0.9, 60), np.linspace(0.9, 1, 41)[1:]])
    if not line.singled:
        levels = levels[::2]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(line.label),
        "x": digits(np.quantile(values, levels)),
        "y": digits(100 * levels),
        "line": {"color": line.color, "dash": line.dash, "width": 2.5 if line.singled else 1},
        "opacity": 1.0 if line.singled else 0.6,
        "hovertemplate": f"{plain(line.label)} (n {len(values):,})<br>%{{y:.3g}} % within "
        f"%{{x:.3~g}} {unit}<extra></extra>",
    }


def _tags(curves: list[tuple[Line, Floats]], scale: float) -> list[dict[str, Any]]:
    """Names beside the fastest curve (left, high) and the slowest (right, low)."""
    singled = [(float(np.median(found)), line.cell, line, found) for line, found in curves]
    singled = sorted(pair for pair in singled if pair[2].singled)
    if len(singled) < 2:
        return []
    tags = []
    sides: tuple[dict[str, Any], dict[str, Any]] = (
        {"xanchor": "right", "xshift": -8},
        {"xanchor": "left", "xshift": 8},
    )
    for (_, _, line, found), level, side in zip(
        (singled[0], singled[-1]), (0.82, 0.18), sides, strict=True
    ):
        x = np.log10(max(float(np.quantile(found, level)), _LEAST_S) * scale)
        place = {"yanchor": "middle", **side}
        tags.append(label(plain(short_tag(line.tag)), digits([float(x)])[0], 100 * level, **place))
    return tags


def _draw_limit(frame: dict[str, Any], limit: float) -> None:
    """A vertical line at the SLO."""
    stroke = {"color": "#888", "dash": "dot", "width": 1.5}
    frame["shapes"].append(
        {
            "type": "line",
            "x0": limit,
            "x1": limit,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": stroke,
        }
    )
    frame["annotations"].append(
        label("SLO", float(np.log10(limit)), 1, yref="paper", xanchor="left", yanchor="top")
    )


def _title(metric: str, curves: list[tuple[Line, Floats]], focus: int) -> str:
    by_cell = {line.cell: (line, found) for line, found in curves}
    line, found = by_cell.get(focus, curves[-1])
    where = f" in {line.label}" if len(curves) > 1 else ""
    half, most = times([float(np.quantile(found, q)) for q in (0.5, 0.99)])
    return f"{LATENCIES[metric]}: half within {half}, 99 % within {most}{where}"


def time_split(
    names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int
) -> Figure | None:
    """Mean time by part (`Window.split_s`); None: nothing finished."""
    rows = [i for i, m in enumerate(summaries) if m["e2e_s"]["mean"] is not None]
    if not rows:
        return None
    found = [summaries[i]["time_split_s"] for i in rows]
    parts = [
        Part(part, color, [split.get(part, 0.0) for split in found])
        for part, color in PARTS.items()
        if any(split.get(part) for split in found)
    ]
    data, frame = bars(
        [names[i] for i in rows],
        times([summaries[i]["e2e_s"]["mean"] for i in rows]),
        parts,
        "mean time of a finished request, s",
        marked=rows.index(focus) if focus in rows and len(rows) > 1 else None,
    )
    split = summaries[focus if focus in rows else rows[0]]["time_split_s"]
    total = sum(split.values())
    top = max(split, key=lambda part: split[part])
    where = f" in {names[focus]}" if len(names) > 1 else ""
    title = f"{percent(split[top] / total)} of the mean request{where} is {top}"
    return Figure(title, title, data, frame, [Key(part.name, part.color) for part in parts])
