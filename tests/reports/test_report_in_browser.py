"""The report in a real browser: drawn, no errors, no requests, no sideways scroll."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from infersim.reports.metrics import summarize
from infersim.reports.page import write_report
from infersim.sim.state.records import CellRecords


def test_it_draws_without_errors_at_both_widths(
    grid: list[CellRecords],
    tmp_path: Path,
    in_browser: Callable[[Path, int], list[dict[str, Any]]],
) -> None:
    summaries = [summarize(cell) for cell in grid]
    origin = {"version": "0.1.0", "seed": 1}
    write_report(tmp_path / "report.html", "r", grid, summaries, "a: 1", origin, "infersim run")
    for found in in_browser(tmp_path, 0):
        assert found["drawn"] == found["shown"] > 10
        assert found["panels"] == ["0", "0"], "the chosen cell is shown"
