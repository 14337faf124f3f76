"""Hit rates of a replay of caches: a heat map of evictions × routers, and curves over the size."""

from __future__ import annotations

from typing import Any

from ..cachestudy import LRU, SHARED, Part
from ..text import percent, points
from .style import (
    DASHES,
    MARKERS,
    OTHERS,
    PALETTE,
    Figure,
    Key,
    axis,
    digits,
    layout,
    log_axis,
    plain,
)

_ROW_PX = 24
_GAP = 0.03  # of the width, between two sizes
_SCALE = "Cividis"  # even in lightness, and the same to the colour-blind (Nuñez et al. 2018)


def size_text(tokens: int) -> str:
    """KV of a replica: "8 M tokens", "30 k tokens", "no limit"."""
    if not tokens:
        return "no limit"
    return f"{tokens / 1e6:g} M tokens" if tokens >= 1e6 else f"{tokens / 1e3:g} k tokens"


def heat_map(part: Part) -> Figure:
    """Evictions by routers, a panel for each size."""
    evictions, routings, sizes = part.ranked(), part.routings, part.sizes
    names = [f"{e} (bound)" if e in part.oracles else e for e in evictions]
    rates = [[[100 * part.rate(e, r, s) for r in routings] for e in evictions] for s in sizes]
    every = [rate for panel in rates for row in panel for rate in row]
    width = (1 - _GAP * (len(sizes) - 1)) / len(sizes)
    data: list[dict[str, Any]] = []
    frame = layout(
        110 + _ROW_PX * len(evictions),
        margin={"l": 20, "r": 14, "t": 26, "b": 20},
        annotations=[
            {
                "text": size_text(size),
                "x": n * (width + _GAP) + width / 2,
                "y": 1,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
            for n, size in enumerate(sizes)
        ],
        yaxis=axis("", autorange="reversed", type="category", ticks=""),
    )
    for n, size in enumerate(sizes):
        mark = "" if n == 0 else str(n + 1)
        start = n * (width + _GAP)
        frame[f"xaxis{mark}"] = axis(
            "", domain=[start, start + width], type="category", tickangle=-40, ticks=""
        )
        data.append(
            {
                "type": "heatmap",
                "x": [plain(routing) for routing in routings],
                "y": [plain(name) for name in names],
                "z": [digits(row) for row in rates[n]],
                "text": [[f"{rate:.1f}" for rate in row] for row in rates[n]],
                "texttemplate": "%{text}",
                "textfont": {"size": 11},
                "xaxis": f"x{mark}",
                "yaxis": "y",
                "zmin": min(every),
                "zmax": max(every),
                "colorscale": _SCALE,
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
                "hovertemplate": f"%{{y}}, %{{x}}, {size_text(size)} a replica: %{{z:.2f}} %"
                "<extra></extra>",
            }
        )
    by_router, by_eviction = part.typical(sizes[-1])
    title = (
        f"{part.name}: at {size_text(sizes[-1])} a replica, the router moves the hit rate by "
        f"{_by(by_router)}, the eviction by {_by(by_eviction)} (medians)"
    )
    alt = (
        f"Hit rates in % from {min(every):.1f} (dark) to {max(every):.1f} (bright), "
        f"{len(evictions)} evictions, {len(routings)} routers, {len(sizes)} sizes"
    )
    return Figure(title, alt, data, frame)


def _by(share: float) -> str:
    return points(share, 0.0).lstrip("+").replace("=", "nothing")


def curves(part: Part) -> Figure:
    """lru over the size for every router, with oracles (at fewer sizes) and the infinite cache."""
    sizes, routings = part.sizes, part.routings
    best = part.best_routing(sizes[-1])
    lines = [(LRU, routing, PALETTE[n], DASHES[0]) for n, routing in enumerate(routings)]
    lines.append((LRU, SHARED, PALETTE[5], DASHES[1]))
    lines += [(oracle, best, PALETTE[3], DASHES[2]) for oracle in sorted(part.oracles)]
    data: list[dict[str, Any]] = []
    legend = []
    for n, (eviction, routing, color, dash) in enumerate(lines):
        name = f"{eviction}, {routing}"
        if routing == SHARED:
            name = f"{eviction}, one cache of {part.replicas} times the size"
        legend.append(Key(name, color, "" if eviction in part.oracles else dash))
        points_ = part.curve(eviction, routing)
        data.append(
            {
                "type": "scatter",
                "mode": "markers" if eviction in part.oracles else "lines+markers",
                "name": plain(name),
                "x": [size / 1e6 for size, _ in points_],
                "y": digits(100 * rate for _, rate in points_),
                "line": {"color": color, "dash": dash, "width": 2},
                "marker": {"symbol": MARKERS[n % len(MARKERS)], "size": 9, "color": color},
                "hovertemplate": f"{plain(name)}<br>%{{x:g}} M tokens: %{{y:.4g}} %<extra></extra>",
            }
        )
    ideal = 100 * part.ideal
    legend.append(Key("infinite cache", OTHERS, "longdash"))
    line = {"color": OTHERS, "dash": "longdash", "width": 2}
    ends = [size / 1e6 for size, _ in part.curve(LRU, SHARED)]
    data.insert(0, _level(ends[0], ends[-1], ideal, line))
    low = min(min(trace["y"]) for trace in data)
    frame = layout(
        340,
        xaxis=log_axis("KV of a replica, million tokens", ends[0], ends[-1]),
        yaxis=axis("hit rate, %", range=[max(0, low - 4), min(104, ideal + 3)]),
    )
    loss = points(part.rate(LRU, best, sizes[-1]), part.ideal)
    title = (
        f"{part.name}: lru behind {best} at {size_text(sizes[-1])} a replica hits "
        f"{percent(part.rate(LRU, best, sizes[-1]))}; the infinite cache {percent(part.ideal)}"
    )
    return Figure(title, f"{title} ({loss})", data, frame, legend)


def _level(first: float, last: float, rate: float, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "infinite cache",
        "x": [first, last],
        "y": digits([rate, rate]),
        "line": line,
        "hovertemplate": "infinite cache: %{y:.4g} %<extra></extra>",
    }
