"""Figures of a validation: errors, distributions, requests against each other, load, steps.

Measured is blue and solid, simulated is orange and dashed, on every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..figures.style import (
    MARKERS,
    PALETTE,
    Figure,
    Key,
    axis,
    digits,
    label,
    layout,
    log_axis,
)
from ..metrics.stats import Floats
from ..text import count, time_unit
from .words import NAMES, SERIES, correlation, signed
from .words import label as row_label

Data = dict[str, Any]
MEASURED = Key("measured", PALETTE[0], "solid")
SIMULATED = Key("simulated", PALETTE[1], "dash")
_KINDS = {"decode": 0, "mixed": 2, "prefill": 3}
_MOST_POINTS = 2000
_LEAST_S = 1e-6  # a log axis has no zero
_LOG_FROM = 8.0  # below this ratio of the ends a log axis would have few ticks
_PANEL_GAP = 0.1
_SERIES = {
    "running": ("running requests", 1.0),
    "kv": ("KV memory held, %", 100.0),
    "waiting": ("waiting requests", 1.0),
}


def errors(rows: Sequence[Data]) -> Figure | None:
    """The error of every latency statistic, with what ±1 % step time would move it by."""
    shown = [row for row in rows if row["stat"] != "value" and row["error"] is not None]
    if not shown:
        return None
    names = [row_label(row) for row in shown]
    values = [100 * row["error"] for row in shown]
    swings = [_half_swing(row) for row in shown]
    dots: Data = {
        "type": "scatter",
        "mode": "markers",
        "x": digits(values),
        "y": names,
        "marker": {"color": PALETTE[0], "size": 9},
        "hovertemplate": "%{y}: %{x:+.3~g} %<extra></extra>",
    }
    if any(swings):
        dots["error_x"] = {"array": digits(swings), "color": PALETTE[0], "thickness": 1.5}
    worst = max(shown, key=lambda row: (abs(row["error"]), row["metric"], row["stat"]))
    title = f"The largest error is {signed(worst['error'])}, of {row_label(worst)}"
    span = 1.15 * max(0.5, *(abs(v) + s for v, s in zip(values, swings, strict=True)))
    frame = layout(
        60 + 22 * len(shown),
        xaxis=axis("simulated against measured, %", range=digits([-span, span]), zeroline=True),
        yaxis={"automargin": True, "autorange": "reversed", "type": "category"},
        shapes=[_line(0, 0, 0, 1, yref="paper")],
    )
    bar = [Key("error; bar: what ±1 % of step time changes", PALETTE[0])] if any(swings) else []
    return Figure(title, title, [dots], frame, bar)


def _half_swing(row: Data) -> float:
    found = [value for name, value in row["changes"].items() if name.startswith("step time")]
    known = [abs(value) for value in found if value is not None]
    return 100 * max(known, default=0.0)


def ecdf(metric: str, samples: Data, rows: Sequence[Data]) -> Figure | None:
    """Share of requests within a latency on both sides."""
    sides = {key: np.asarray(samples[key.label], dtype=np.float64) for key in (MEASURED, SIMULATED)}
    if not all(len(values) for values in sides.values()):
        return None
    longest_s = max(float(values.max()) for values in sides.values())
    unit, scale = time_unit(longest_s)
    levels = np.concatenate([np.linspace(0, 0.9, 60), np.linspace(0.9, 1, 41)[1:]])
    data = []
    for key, values in sides.items():
        x = np.quantile(np.maximum(values, _LEAST_S), levels) * scale
        hover = f"{key.label}: %{{y:.3g}} % within %{{x:.3~g}} {unit}<extra></extra>"
        data.append(_curve(key, digits(x), digits(100 * levels), hover))
    low = min(trace["x"][0] for trace in data)
    found = {row["stat"]: signed(row["error"]) for row in rows if row["metric"] == metric}
    title = f"{NAMES[metric]}: median {found.get('p50')}, p99 {found.get('p99')}"
    frame = layout(
        300,
        xaxis=_span(f"{NAMES[metric]}, {unit}", low, max(longest_s, _LEAST_S) * scale),
        yaxis=axis("requests within, %", range=[0, 103], tickvals=[0, 25, 50, 75, 90, 99]),
    )
    return Figure(title, title, data, frame, [MEASURED, SIMULATED])


def scatter(metric: str, samples: Data) -> Figure | None:
    """Every request: measured across, simulated upwards; on the line they agree."""
    pairs = np.array([samples["measured"], samples["simulated"]], dtype=np.float64)
    pairs = pairs[:, (pairs > 0).all(axis=0)]
    total = pairs.shape[1]
    if total < 2:
        return None
    error = np.abs(pairs[1] / pairs[0] - 1)
    half = f"half of the requests are within {signed(float(np.median(error)), sign=False)}"
    shown = pairs[:, :: max(1, -(-total // _MOST_POINTS))]
    unit, scale = time_unit(float(pairs.max()))
    x, y = shown * scale
    low, high = float(pairs.min()) * scale, float(pairs.max()) * scale
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": digits(x),
        "y": digits(y),
        "marker": {"color": PALETTE[0], "size": 5, "opacity": 0.45},
        "hovertemplate": f"measured %{{x:.3~g}}, simulated %{{y:.3~g}} {unit}<extra></extra>",
    }
    frame = layout(
        340,
        xaxis=_span(f"measured {NAMES[metric]}, {unit}", low, high),
        yaxis=_span(f"simulated, {unit}", low, high),
        shapes=[_line(low, low, high, high)],
    )
    sampled = "" if shown.shape[1] == total else f" (drawn: {count(shown.shape[1])} of them)"
    title = f"{NAMES[metric]}, request by request: {half}{sampled}"
    return Figure(title, title, [dots], frame, [Key("simulated = measured", "#888", "dot")])


def over_time(series: Data) -> Figure | None:
    """Running, KV and waiting of both sides over one time axis."""
    names = [name for name in _SERIES if name in series]
    if not names:
        return None
    height = (1 - _PANEL_GAP * (len(names) - 1)) / len(names)
    data, axes, notes = [], {}, []
    for n, name in enumerate(names):
        one, (words, scale) = series[name], _SERIES[name]
        suffix = str(n + 1) if n else ""
        for key in (MEASURED, SIMULATED):
            values = np.asarray(one[key.label], dtype=np.float64) * scale
            hover = f"{key.label} %{{y:.3~s}} at %{{x:.4~g}} s<extra></extra>"
            t_s, thin = _thinned(np.asarray(one["t_s"], dtype=np.float64), values)
            data.append(_curve(key, t_s, thin, hover) | {"yaxis": f"y{suffix}"})
        top = 1 - n * (height + _PANEL_GAP)
        axes[f"yaxis{suffix}"] = {
            "domain": [max(0.0, top - height), top],
            "automargin": True,
            "fixedrange": True,
            "rangemode": "tozero",
            "nticks": 5,
        }
        text = f"{words}: correlation {correlation(one['correlation'])}"
        place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        notes.append(label(text, 0, top, **place))
    alike = ", ".join(
        f"{SERIES[name]} {correlation(series[name]['correlation'])}" for name in names
    )
    title = f"Correlation of the load over time: {alike}"
    frame = layout(
        130 + 150 * len(names),
        margin={"l": 44, "r": 14, "t": 26, "b": 44},
        xaxis=axis("time since the first arrival, s", anchor=f"y{len(names)}", rangemode="tozero"),
        annotations=notes,
        hovermode="x",
        **axes,
    )
    return Figure(title, title, data, frame, [MEASURED, SIMULATED])


def _thinned(t_s: Floats, values: Floats) -> tuple[list[float], list[float]]:
    every = max(1, -(-len(t_s) // _MOST_POINTS))
    return digits(t_s[::every], 6), digits(values[::every])


def residuals(steps: Data) -> Figure | None:
    """The error of every step's time over the run, by kind of step."""
    points = steps["points"]
    t_s, error = (np.asarray(points[name], dtype=np.float64) for name in ("t_s", "error"))
    if not len(t_s):
        return None
    kinds = np.asarray(points["kind"])
    data, keys = [], []
    for kind, n in _KINDS.items():
        mine = kinds == kind
        if not mine.any():
            continue
        keys.append(Key(f"{kind} steps", PALETTE[n]))
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": digits(t_s[mine], 6),
                "y": digits(100 * error[mine]),
                "marker": {"color": PALETTE[n], "size": 5, "opacity": 0.6, "symbol": MARKERS[n]},
                "hovertemplate": f"{kind}: %{{y:+.3~g}} % at %{{x:.4~g}} s<extra></extra>",
            }
        )
    edge = max(1.0, 1.2 * float(np.percentile(np.abs(error), 99)) * 100)
    outside = int((np.abs(error) * 100 > edge).sum())
    whole = steps["times"][0]
    sampled = "" if len(t_s) == points["of"] else f", {count(len(t_s))} steps drawn"
    beyond = f", {count(outside)} outside the frame" if outside else ""
    title = (
        f"Step times: bias {signed(whole['bias'])}, half of the steps within "
        f"{signed(whole['median'], sign=False)}{sampled}{beyond}"
    )
    frame = layout(
        320,
        xaxis=axis("measured time, s"),
        yaxis=axis("simulated step time against measured, %", range=digits([-edge, edge])),
        shapes=[_line(0, 0, 1, 0, xref="paper")],
    )
    return Figure(title, title, data, frame, keys)


def ranks(ranking: Sequence[Data], cells: Sequence[Data]) -> Figure | None:
    """Measured against simulated place of every cell, one symbol a figure."""
    known = [row for row in ranking if row["tau"] is not None]
    if not known:
        return None
    data, keys = [], []
    for n, row in enumerate(known):
        color, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
        theirs, ours = _places(row["measured"]), _places(row["simulated"])
        places = [(theirs[c["name"]], ours[c["name"]]) for c in cells]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [a for a, _ in places],
                "y": [b + 0.08 * (n - (len(known) - 1) / 2) for _, b in places],
                "text": [c["name"] for c in cells],
                "marker": {"color": color, "symbol": marker, "size": 9, "opacity": 0.8},
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
        keys.append(Key(f"{NAMES[row['metric']]}, τ {correlation(row['tau'])}", color))
    lowest = min(known, key=lambda row: (row["tau"], row["metric"]))
    title = (
        f"The ranking of {len(cells)} cells agrees worst in {NAMES[lowest['metric']]}: "
        f"τ {correlation(lowest['tau'])}"
    )
    span = [0.5, len(cells) + 0.5]
    frame = layout(
        320,
        xaxis=axis("place when measured (1 is best)", range=span, dtick=1),
        yaxis=axis("place when simulated", range=span, dtick=1),
        shapes=[_line(span[0], span[0], span[1], span[1])],
    )
    return Figure(title, title, data, frame, keys)


def _places(order: Sequence[Sequence[str]]) -> dict[str, float]:
    """The place of every cell from 1; those that are tied have the mean of theirs."""
    found, before = {}, 0
    for names in order:
        found.update(dict.fromkeys(names, before + (len(names) + 1) / 2))
        before += len(names)
    return found


def _span(title: str, low: float, high: float) -> Data:
    """An axis from *low* to *high*, log where they lie far apart."""
    if high > _LOG_FROM * low:
        return log_axis(title, low, high)
    pad = 0.04 * (high - low) or 1.0
    return axis(title, range=digits([low - pad, high + pad]))


def _curve(key: Key, x: list[float], y: list[float], hover: str) -> Data:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": key.label,
        "x": x,
        "y": y,
        "line": {"color": key.color, "dash": key.dash, "width": 2},
        "hovertemplate": hover,
    }


def _line(x0: float, y0: float, x1: float, y1: float, **given: Any) -> Data:
    stroke = {"color": "#888", "dash": "dot", "width": 1.5}
    return {"type": "line", "x0": x0, "y0": y0, "x1": x1, "y1": y1, "line": stroke, **given}
