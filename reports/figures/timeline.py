"""Where the time of single requests went: a sample of about forty, the slowest among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...sim.state.records import CellRecords
from ..metrics.window import Window
from ..text import percent, time
from .latency import PARTS
from .style import Figure, Key, axis, digits, layout

_SLOWEST = 12
_SAMPLED = 28


def slowest(window: Window, n: int) -> NDArray[np.int64]:
    """Positions (among the finished) of the *n* slowest requests by E2E, slowest first."""
    e2e_s = window.between_s("arrival_ps", "finish_ps")
    return np.lexsort((window.done("request_id"), -e2e_s))[:n].astype(np.int64)


def _sample(window: Window) -> NDArray[np.int64]:
    """The slowest and, evenly spread over their ids, others; slowest first."""
    every = slowest(window, int(window.finished.sum()))
    top, rest = every[:_SLOWEST], np.sort(every[_SLOWEST:])
    if len(rest) > _SAMPLED:
        rest = rest[np.linspace(0, len(rest) - 1, _SAMPLED).astype(np.int64)]
    chosen = np.zeros(len(every), dtype=np.bool_)
    chosen[top] = chosen[rest] = True
    picked: NDArray[np.int64] = every[chosen[every]]
    return picked


def timelines(cell: CellRecords) -> Figure | None:
    """Stacked bars from each request's arrival; None when nothing finished."""
    window = Window.of(cell)
    rows = _sample(window)
    if not len(rows):
        return None
    split = {part: values[rows] for part, values in window.split_s().items()}
    ids = [f"r{i}" for i in window.done("request_id")[rows]]
    drawn = {part: values for part, values in split.items() if values.any()}
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": list(range(len(rows))),
            "x": digits(values),
            "customdata": ids,
            "marker": {"color": PARTS[part]},
            "hovertemplate": f"%{{customdata}}<br>{part} %{{x:.3~g}} s<extra></extra>",
        }
        for part, values in drawn.items()
    ]
    frame = layout(
        70 + 15 * len(rows),
        barmode="stack",
        bargap=0.25,
        xaxis=axis("time since arrival, s", rangemode="tozero"),
        yaxis=_request_axis(ids),
    )
    title = _title(window, int(rows[0]), {part: float(values[0]) for part, values in split.items()})
    return Figure(title, title, data, frame, [Key(part, PARTS[part]) for part in drawn])


def _request_axis(ids: list[str]) -> dict[str, Any]:
    step = 2 if len(ids) > 20 else 1
    return {
        "tickvals": list(range(0, len(ids), step)),
        "ticktext": ids[::step],
        "tickfont": {"size": 10},
        "range": [len(ids) - 0.4, -0.6],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
    }


def _title(window: Window, row: int, split: dict[str, float]) -> str:
    total = sum(split.values())
    top = max(split, key=lambda part: split[part])
    request = window.done("request_id")[row]
    return (
        f"The slowest request, r{request}, took {time(total)}: {percent(split[top] / total)} {top}"
    )
