"""Hit rate: by cell, by turn of the session, against capacity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...sim.state.records import CellRecords
from ..labels import short, text, varied
from ..text import percent, points
from .bars import Part, bars
from .style import (
    DASHES,
    MARKERS,
    MAX_SERIES,
    OTHERS,
    PALETTE,
    Figure,
    Key,
    Line,
    axis,
    digits,
    label,
    layout,
    legend,
    log_axis,
    plain,
    short_tag,
)

_CAPACITY = re.compile(r"kv_blocks|capacity|memory", re.IGNORECASE)
_DIP = 0.05  #: how far a low must lie below both ends to be said


def hit_rate(names: Sequence[str], summaries: Sequence[dict[str, Any]]) -> Figure | None:
    """Bars of the hit rate, highest first; None when no request looked at a cache."""
    found = [(m["hit_rate"], i) for i, m in enumerate(summaries) if m["hit_rate"] is not None]
    if not found:
        return None
    order = [i for _, i in sorted(found, key=lambda pair: (-pair[0], pair[1]))]
    rates = [summaries[i]["hit_rate"] for i in order]
    top, low = order[0], order[-1]
    data, frame = bars(
        [names[i] for i in order],
        [percent(rate) for rate in rates],
        [Part("hit rate, %", PALETTE[0], [100 * rate for rate in rates])],
        "prompt tokens found in the cache, %",
        marked=0 if len(order) > 1 else None,
        x_max=100,
    )
    if len(order) == 1:
        title = f"{percent(rates[0])} of the prompt tokens hit the cache"
    else:
        gap = points(rates[0], rates[-1]).lstrip("+")
        title = f"{names[top]} hits most: {percent(rates[0])}, {gap} more than {names[low]}"
        if gap == "=":
            title = f"All cells hit alike: {percent(rates[0])} of the prompt tokens"
    return Figure(title, title, data, frame)


def hit_rate_by_turn(
    drawn: Sequence[Line], summaries: Sequence[dict[str, Any]], focus: int
) -> Figure | None:
    """Lines over the turn of the session; None unless some session has a second turn."""
    rows = {
        i: [r for r in m["hit_rate_by_turn"] if r["hit_rate"] is not None]
        for i, m in enumerate(summaries)
    }
    if not any(len(found) > 1 for found in rows.values()):
        return None
    data = [_turn_trace(line, rows[line.cell]) for line in drawn]
    tags = _end_tags(
        [(line, rows[line.cell][-1]) for line in drawn if line.singled and rows[line.cell]]
    )
    frame = layout(
        340,
        xaxis=axis("turn of the session (0 = first call)", rangemode="tozero", zeroline=False),
        yaxis=axis("hit rate, %", range=[0, 104]),
        annotations=tags,
    )
    shown = focus if rows[focus] else max(rows, key=lambda i: (len(rows[i]), -i))
    name = next((line.label for line in drawn if line.cell == shown), "")
    title = _turn_title(rows[shown], name if len(summaries) > 1 else "")
    return Figure(title, title, data, frame, legend(drawn))


def _turn_trace(line: Line, rows: list[dict[str, Any]]) -> dict[str, Any]:
    spans = [_turns(r).partition(" ")[2] for r in rows]
    return {
        "type": "scatter",
        "mode": "lines+markers" if line.singled else "lines",
        "name": plain(line.label),
        "x": [(r["turn"] + r["to_turn"]) / 2 for r in rows],
        "y": digits(100 * r["hit_rate"] for r in rows),
        "customdata": [[span, r["requests"]] for span, r in zip(spans, rows, strict=True)],
        "line": {"color": line.color, "dash": line.dash, "width": 2.5 if line.singled else 1},
        "marker": {"symbol": line.marker, "size": 7, "color": line.color},
        "opacity": 1.0 if line.singled else 0.6,
        "hovertemplate": f"{plain(line.label)}<br>turn %{{customdata[0]}}: %{{y:.3g}} % "
        "(%{customdata[1]} requests)<extra></extra>",
    }


def _end_tags(ends: list[tuple[Line, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Labels at the ends of at most four lines, pushed apart when they would overlap."""
    if not 1 < len(ends) <= 4:
        return []
    tags: list[dict[str, Any]] = []
    floor = -100.0
    for line, row in sorted(ends, key=lambda end: (end[1]["hit_rate"], end[0].cell)):
        floor = max(100 * row["hit_rate"] + 4, floor + 7)
        x = (row["turn"] + row["to_turn"]) / 2
        tags.append(label(plain(short_tag(line.tag)), x, floor, xanchor="right", yanchor="middle"))
    return tags


def _turn_title(rows: list[dict[str, Any]], cell: str) -> str:
    """Where the line of a cell begins and ends, and its low between them where it is one."""
    first, last, low = rows[0], rows[-1], min(rows, key=lambda row: row["hit_rate"])
    change = last["hit_rate"] - first["hit_rate"]
    verb = "rises" if change > 0 else "falls" if change < 0 else "goes"
    dips = low["hit_rate"] < min(first["hit_rate"], last["hit_rate"]) - _DIP
    return (
        f"Hit rate {verb} from {percent(first['hit_rate'])} at {_turns(first)} to "
        f"{percent(last['hit_rate'])} at {_turns(last)}"
        + (f", with {percent(low['hit_rate'])} at {_turns(low)}" if dips else "")
        + (f", in {cell}" if cell else "")
    )


def _turns(row: dict[str, Any]) -> str:
    if row["turn"] == row["to_turn"]:
        return f"turn {row['turn']}"
    return f"turns {row['turn']}–{row['to_turn']}"


def hit_rate_by_capacity(
    cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]
) -> Figure | None:
    """Hit rate over KV blocks when a capacity is among the compared keys, else None."""
    keys = varied(cells)
    swept = [key for key in keys if _CAPACITY.search(short(key))]
    if not swept:
        return None
    groups: dict[str, list[tuple[int, float]]] = {}
    for cell, metrics in zip(cells, summaries, strict=True):
        if metrics["hit_rate"] is not None:
            name = " · ".join(text(cell.params[key]) for key in keys if key not in swept)
            groups.setdefault(name, []).append((metrics["kv_blocks"], 100 * metrics["hit_rate"]))
    if not groups:
        return None
    data, keys_shown = [], []
    for n, (name, found) in enumerate(groups.items()):
        color = PALETTE[n] if n < MAX_SERIES else OTHERS
        style = n % MAX_SERIES
        data.append(_capacity_trace(name, sorted(found), color, style))
        if name and n < MAX_SERIES:
            keys_shown.append(Key(name, color, DASHES[style]))
    points_ = sorted(point for found in groups.values() for point in found)
    low, high = points_[0], points_[-1]
    frame = layout(
        340,
        xaxis=log_axis("KV blocks of all replicas", low[0], high[0]),
        yaxis=axis("hit rate, %", range=[0, 104]),
    )
    title = (
        f"From {low[0]:,} to {high[0]:,} KV blocks the hit rate goes from "
        f"{low[1]:.1f} % to {high[1]:.1f} %"
    )
    return Figure(title, title, data, frame, keys_shown)


def _capacity_trace(
    name: str, found: list[tuple[int, float]], color: str, style: int
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": [blocks for blocks, _ in found],
        "y": digits(rate for _, rate in found),
        "line": {"color": color, "dash": DASHES[style], "width": 2},
        "marker": {"symbol": MARKERS[style], "size": 8, "color": color},
        "hovertemplate": f"{plain(name)}<br>%{{x:,}} blocks: %{{y:.3g}} %<extra></extra>",
    }
