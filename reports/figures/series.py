"""A cell over simulated time: rates, requests, KV memory, tokens per step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...sim.state.records import CellRecords
from ..metrics.stats import Floats
from ..text import count, percent
from .style import PALETTE, Figure, axis, digits, label, layout

_BLUE, _ORANGE, _GREEN, _RED, _PINK, _SKY = PALETTE
_PANEL_GAP = 0.085
_RATE_BINS = 60
_COUNTED = (
    "waiting",
    "running",
    "kv_used_blocks",
    "kv_cached_blocks",
    "prefill_tokens",
    "decode_tokens",
)


class _Binned:
    """The replicas' sum of every sampled quantity, in even bins of simulated time."""

    def __init__(self, cell: CellRecords, most_bins: int) -> None:
        series = cell.series
        times = np.unique(series["t_ps"])
        self.end_s = max(cell.totals["simulated_ps"], int(times[-1]) if len(times) else 0, 1) / 1e12
        self.bins = max(1, min(most_bins, len(times)))
        self.width_s = self.end_s / self.bins
        edges_s = np.linspace(0, self.end_s, self.bins + 1)
        self._starts = np.searchsorted(times / 1e12, edges_s[:-1], "left")
        self._sums = {name: _sum_over_replicas(series, times, name) for name in _COUNTED}

    def of(self, name: str, how: np.ufunc) -> Floats:
        """*name* reduced by *how* in each bin; an empty bin repeats the sample before it."""
        values = self._sums[name]
        if not len(values):
            return np.zeros(self.bins)
        starts = np.minimum(self._starts, len(values) - 1)
        ends = np.append(self._starts[1:], len(values))
        empty = ends <= self._starts
        reduced = how.reduceat(values, starts)
        if how is np.add:
            reduced = reduced / np.maximum(ends - self._starts, 1)
        before = values[np.maximum(starts - (self._starts < len(values)), 0)]
        return np.where(empty, before, reduced)


def _sum_over_replicas(series: dict[str, NDArray[Any]], times: NDArray[Any], name: str) -> Floats:
    """Value at each of *times*, each replica holding its last sample until the next."""
    total = np.zeros(len(times))
    for replica in np.unique(series["replica"]):
        mine = series["replica"] == replica
        at = np.searchsorted(series["t_ps"][mine], times, "right") - 1
        total += np.where(at >= 0, series[name][mine][np.maximum(at, 0)], 0)
    return total


def over_time(cell: CellRecords, most_bins: int) -> Figure | None:
    """Four panels over one time axis; None when nothing was sampled.

    Args:
        most_bins: points of each curve at most.
    """
    if not len(cell.series["t_ps"]):
        return None
    binned = _Binned(cell, most_bins)
    kv = max(1, cell.totals["kv_blocks"]) / 100
    data = [
        *_rates(cell, binned.end_s),
        *_band(binned, "running", _BLUE, "y2"),
        *_band(binned, "waiting", _ORANGE, "y2"),
        _area(binned, binned.of("kv_used_blocks", np.add) / kv, "KV used", _BLUE, "y3"),
        _area(binned, binned.of("kv_cached_blocks", np.add) / kv, "KV cached", _SKY, "y3"),
        _area(binned, binned.of("decode_tokens", np.add), "decode tokens", _BLUE, "y4"),
        _area(binned, binned.of("prefill_tokens", np.add), "prefill tokens", _GREEN, "y4"),
    ]
    peak_kv = float(binned.of("kv_used_blocks", np.maximum).max()) / kv / 100
    peak_waiting = float(binned.of("waiting", np.maximum).max())
    title = (
        f"At its peak {percent(peak_kv)} of the KV is used and {count(peak_waiting)} requests wait"
    )
    return Figure(title, title, data, _panels())


def _trace(width_s: float, values: Floats, name: str, color: str, y_axis: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x0": digits([width_s / 2], 6)[0],
        "dx": digits([width_s], 6)[0],
        "y": digits(values, 3),
        "yaxis": y_axis,
        "line": {"color": color, "width": 1.5},
        "hovertemplate": f"{name} %{{y:.3~s}} at %{{x:.4~g}} s<extra></extra>",
    }


def _rates(cell: CellRecords, end_s: float) -> list[dict[str, Any]]:
    """Arrivals and completions a second, in bins wide enough not to make a comb of them."""
    done = cell.requests["finish_ps"][cell.requests["status"] == "finished"]
    width_s = end_s / _RATE_BINS

    def rate(times_ps: NDArray[Any], name: str, color: str) -> dict[str, Any]:
        counts, _ = np.histogram(times_ps / 1e12, bins=_RATE_BINS, range=(0, end_s))
        return _trace(width_s, counts / width_s, name, color, "y")

    arrivals = rate(cell.requests["arrival_ps"], "arrivals/s", _ORANGE)
    arrivals["line"]["dash"] = "dot"
    return [arrivals, rate(done, "completions/s", _BLUE)]


def _band(binned: _Binned, name: str, color: str, y_axis: str) -> list[dict[str, Any]]:
    """Mean of each bin as a line, least to most as a band."""
    low = _trace(binned.width_s, binned.of(name, np.minimum), f"least {name}", color, y_axis)
    high = _trace(binned.width_s, binned.of(name, np.maximum), f"most {name}", color, y_axis)
    for edge in (low, high):
        edge["line"] = {"width": 0}
        edge["hoverinfo"] = "skip"
        del edge["hovertemplate"]
    high |= {"fill": "tonexty", "fillcolor": _faint(color)}
    return [low, high, _trace(binned.width_s, binned.of(name, np.add), name, color, y_axis)]


def _area(binned: _Binned, values: Floats, name: str, color: str, y_axis: str) -> dict[str, Any]:
    area = _trace(binned.width_s, values, name, color, y_axis)
    area["line"]["width"] = 0.5
    return area | {"stackgroup": y_axis, "fillcolor": color}


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.25)"


def _panels() -> dict[str, Any]:
    titles = (
        f"requests/s: {_word('arrivals', _ORANGE)}, {_word('completions', _BLUE)}",
        f"requests: {_word('running', _BLUE)}, {_word('waiting', _ORANGE)}",
        f"KV memory, %: {_word('used', _BLUE)}, {_word('cached', _SKY)}",
        f"tokens in a step: {_word('decode', _BLUE)}, {_word('prefill', _GREEN)}",
    )
    height = (1 - _PANEL_GAP * (len(titles) - 1)) / len(titles)
    notes, axes = [], {}
    for n, title in enumerate(titles):
        top = 1 - n * (height + _PANEL_GAP)
        given: dict[str, Any] = {"domain": [max(0.0, top - height), top], "nticks": 5}
        given |= {"range": [0, 101]} if n == 2 else {"rangemode": "tozero"}
        axes[f"yaxis{n + 1 if n else ''}"] = {"automargin": True, "fixedrange": True, **given}
        place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        notes.append(label(title, 0, top, **place))
    x_axis = axis("simulated time, s", anchor="y4", rangemode="tozero")
    margin = {"l": 44, "r": 14, "t": 26, "b": 44}
    return layout(600, margin=margin, xaxis=x_axis, annotations=notes, hovermode="x", **axes)


def _word(word: str, color: str) -> str:
    return f'<span style="color:{color}">■</span> {word}'
