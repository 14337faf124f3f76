"""Single requests on the page: timelines and the slowest twenty."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import figures
from ..metrics.window import Window
from ..text import MISSING, count, number, percent
from .context import Context
from .html import Html, Td, join, table

_SLOWEST = 20
_HEADS = ["request", "session / turn", "replica", "arrival"]  #: then the parts of its time
_LAST_HEADS = [
    "E2E", "TTFT", "prompt tokens", "hit", "output tokens", "pre-empted", "first miss in",
]  # fmt: skip


def requests(page: Context) -> Html:
    """Timelines and the slowest requests of the chosen cell; empty when nothing finished."""
    panels = []
    for i, cell in enumerate(page.cells):
        timelines = figures.timelines(cell)
        shown = page.plots.add(f"timeline-{i}", timelines) if timelines else "No request finished."
        panels.append(page.per_cell(i, shown, _slowest(Window.of(cell)) if timelines else ""))
    return join([page.picker(), *panels])


def _slowest(window: Window) -> Html:
    rows = figures.slowest(window, _SLOWEST)
    split = {part: values[rows] for part, values in window.split_s().items()}
    ttft_s = window.between_s("arrival_ps", "first_token_ps")[rows]
    e2e_s = window.between_s("arrival_ps", "finish_ps")[rows]
    columns = {name: column[window.finished][rows] for name, column in window.columns.items()}
    lines = [
        [
            *_identity(columns, i),
            number(float(columns["arrival_ps"][i]) / 1e12),
            *(number(float(split[part][i])) for part in split),
            number(float(e2e_s[i])),
            number(float(ttft_s[i])),
            *_tokens(columns, i),
        ]
        for i in range(len(rows))
    ]
    caption = f"the {len(rows)} slowest requests by end-to-end latency; times in s"
    return table([*_HEADS, *split, *_LAST_HEADS], lines, caption=caption)


def _identity(columns: dict[str, NDArray[Any]], i: int) -> list[object]:
    session, kind = int(columns["session"][i]), str(columns["kind"][i])
    return [
        f"r{columns['request_id'][i]} {kind}".strip(),
        f"{session} / {columns['turn'][i]}" if session >= 0 else MISSING,
        str(columns["replica"][i]),
    ]


def _tokens(columns: dict[str, NDArray[Any]], i: int) -> list[object]:
    prompt, hit = (int(np.int64(columns[name][i])) for name in ("prompt_tokens", "hit_tokens"))
    return [
        count(prompt),
        percent(hit / prompt if prompt else None),
        count(int(columns["output_tokens"][i])),
        count(int(columns["preemptions"][i])),
        Td(str(columns["first_miss"][i]) or MISSING, "text"),
    ]
