"""Putting the page together and writing it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sim.state.records import CellRecords
from ..files import asset, write_text
from . import about, cache, performance, requests, top
from .context import Context
from .html import Html, Plots, esc

#: The page is made with fewer points a curve until it is no larger than this.
MAX_BYTES = 2_500_000
_BINS = (500, 250, 120, 60)

#: The browser itself sees to it that the page loads nothing, whatever text is in it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_NO_SCRIPT = (
    "<noscript><style>.plot,.legend,.pick{display:none}.which{display:block}[data-cell][hidden]{display:block}"
    "figure h3{font-weight:400}</style></noscript>"
)


def write_report(
    path: Path,
    run_name: str,
    cells: Sequence[CellRecords],
    summaries: Sequence[dict[str, Any]],
    scenario_yaml: str,
    provenance: dict[str, Any],
    command: str,
) -> None:
    """Write the report of a run to *path*: one file, nothing loaded from elsewhere.

    Args:
        summaries: `metrics.summarize` of each cell, in the order of *cells*.
        scenario_yaml: the resolved scenario, shown whole.
        provenance: where the run came from; "version", "git_commit" and "seed" go to the top.
        command: how to run it again.

    Raises:
        OSError: the file could not be written; then there is none (or still the former one).
    """
    write_text(path, render(run_name, cells, summaries, scenario_yaml, provenance, command))


def render(
    run_name: str,
    cells: Sequence[CellRecords],
    summaries: Sequence[dict[str, Any]],
    scenario_yaml: str,
    provenance: dict[str, Any],
    command: str,
) -> str:
    """The HTML of the report; arguments as in `write_report`."""
    text = ""
    for bins in _BINS:
        page = Context.of(run_name, cells, summaries, scenario_yaml, provenance, command, bins)
        text = _document(page)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _document(page: Context) -> str:
    makers = {
        "hits": cache.hits,
        "misses": cache.misses,
        "latency": performance.latency,
        "time": performance.over_time,
        "load": performance.load,
        "requests": requests.requests,
        "capacity": about.capacity,
        "caveats": about.caveats,
        "definitions": about.definitions,
        "scenario": about.scenario,
    }
    made = {anchor: make(page) for anchor, make in makers.items()}
    parts = {anchor: part for anchor, part in made.items() if part}
    body = [
        top.header(page, ("answer", *parts)),
        "<main>",
        top.answer_section(page),
        top.contents(parts),
        "</main>",
        "<footer>Made by infersim. Charts: plotly.js, © Plotly, Inc., MIT licence.</footer>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{esc(page.run_name)} · infersim</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{asset('report.css')}</style>{_NO_SCRIPT}</head><body>",
            *body,
            f'<script type="application/json" id="figures">{_figures(page.plots)}</script>',
            f"<script>{asset('plotly-cartesian.min.js')}</script>",
            f"<script>{asset('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def _figures(plots: Plots) -> Html:
    """The figures as JSON that no text in it can break out of."""
    found = {name: {"data": f.data, "layout": f.layout} for name, f in plots.figures.items()}
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Html(text.replace("<", "\\u003c"))
