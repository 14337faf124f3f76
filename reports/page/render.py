"""Putting the page together and writing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sim.state.records import CellRecords
from ..files import write_text
from . import about, cache, performance, requests, top
from .context import Context
from .shell import document

#: The page is made with fewer points a curve until it is no larger than this.
MAX_BYTES = 2_500_000
_BINS = (500, 250, 120, 60)


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
    main = [top.answer_section(page), top.contents(parts)]
    return document(page.run_name, top.header(page, ("answer", *parts)), main, page.plots)
