"""What the pictures show: `benchmarks/figures/*.yaml`, read, run and checked against their titles.

A file holds

- ``title``: the finding; ``seeds`` (3)
- ``scenario``, ``set``: a shipped scenario and what is changed in all of its panels
- ``rows``: the policies, by name; each the settings that choose it. The first is what the others
  are compared with
- ``panels``: each with a ``heading``, a ``metric`` of summary.json, the ``axis`` with its unit,
  and, where they differ, a ``scenario`` and a ``set`` of its own; ``factor`` to get to the unit,
  ``better`` (lower, higher), ``log``, ``only`` (requests with one value in a column, or one
  priority) and ``without`` (rows that cannot be run there)
- ``holds``: what the title claims, with every seed: [panel, row, "<" or ">", row]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import yaml

from infersim.reports.metrics.summary import summarize
from infersim.scenarios import build, grid, load
from infersim.sim.state.records import CellRecords

FOLDER = Path(__file__).parent / "figures"
PLOTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))

#: a figure; None where there is none
Value = float | None


class Want(NamedTuple):
    """A metric, of the requests with this value in *column* (all, where it is empty)."""

    metric: str
    column: str = ""
    value: float | str = ""

    def of(self, records: CellRecords, priorities: np.ndarray[Any, Any]) -> Value:
        """The metric of a cell."""
        if self.column:
            keep = {**records.requests, "priority": priorities}[self.column] == self.value
            kept = {name: column[keep] for name, column in records.requests.items()}
            records = replace(records, requests=kept)
        value: Any = summarize(records)
        for key in self.metric.split("."):
            value = value[key]
        return None if value is None else float(value)


class Run(NamedTuple):
    """One simulation: a shipped scenario, ``key=value`` settings and a seed."""

    scenario: str
    settings: tuple[str, ...]
    seed: int

    def values(self, wants: list[Want]) -> dict[Want, Value]:
        """Simulate, and read each of *wants*."""
        source = load.read(self.scenario, ["compare=null", *self.settings], self.seed)
        _, (cell,) = grid.cells(source)
        made = build.simulate_cell(cell, source.folders, leap=True, progress=lambda *told: None)
        priorities = np.zeros(0)
        if any(want.column == "priority" for want in wants):
            arrivals = build.assemble(cell, source.folders).workload.arrivals()
            priorities = np.array([arrival.what.priority for arrival in arrivals])
        return {want: want.of(made.records, priorities) for want in wants}


@dataclass(frozen=True)
class Panel:
    """One metric of every row; attributes as in the file."""

    heading: str
    axis: str
    want: Want
    scenario: str
    settings: tuple[str, ...]
    factor: float = 1
    better: str = "lower"
    log: bool = False
    without: tuple[str, ...] = ()

    def run(self, plot: Plot, row: str, seed: int) -> Run:
        """The simulation behind one value."""
        return Run(self.scenario, self.settings + plot.rows[row], seed)

    def runs(self, plot: Plot) -> Iterator[Run]:
        """All simulations of the panel."""
        for row in plot.rows:
            if row not in self.without:
                yield from (self.run(plot, row, seed) for seed in plot.seeds)

    def by_seed(self, plot: Plot, row: str, values: dict[tuple[Run, Want], Value]) -> list[float]:
        """The values of a row in the unit of the axis; empty where there are none."""
        if row in self.without:
            return []
        found = [values[self.run(plot, row, seed), self.want] for seed in plot.seeds]
        return [value * self.factor for value in found if value is not None]

    def mean(self, plot: Plot, row: str, values: dict[tuple[Run, Want], Value]) -> Value:
        """Their mean; None where there are none."""
        found = self.by_seed(plot, row, values)
        return mean(found) if found else None

    def shown(self, value: Value) -> str:
        """A value in three digits."""
        if value is None:
            return "–"
        digits = (
            0
            if value == 0 or abs(value) >= 100
            else 1
            if abs(value) >= 10
            else 2
            if abs(value) >= 1
            else 3
        )
        return f"{value:,.{digits}f}"

    def verdict(self, plot: Plot, row: str, values: dict[tuple[Run, Want], Value]) -> str:
        """first, better, worse, same or none; better and worse by over 1 % and with every seed."""
        ours, first = (self.by_seed(plot, name, values) for name in (row, plot.first(self)))
        if not ours:
            return "none"
        if row == plot.first(self):
            return "first"
        up = all(a > b for a, b in zip(ours, first, strict=True))
        down = all(a < b for a, b in zip(ours, first, strict=True))
        if abs(mean(ours) - mean(first)) <= 0.01 * abs(mean(first)) or not (up or down):
            return "same"
        return "better" if up == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Plot:
    """One picture; attributes as in the file."""

    name: str
    title: str
    rows: dict[str, tuple[str, ...]]
    panels: tuple[Panel, ...]
    seeds: range
    holds: tuple[tuple[int, str, str, str], ...] = field(default=())

    def first(self, panel: Panel) -> str:
        """What the rows of *panel* are compared with."""
        return next(row for row in self.rows if row not in panel.without)

    def broken(self, values: dict[tuple[Run, Want], Value]) -> Iterator[str]:
        """The claims of the title that do not hold with every seed."""
        for number, one, sign, other in self.holds:
            panel = self.panels[number]
            ours, theirs = (panel.by_seed(self, row, values) for row in (one, other))
            pairs = list(zip(ours, theirs, strict=True))
            if not all(a < b if sign == "<" else a > b for a, b in pairs):
                yield f"{panel.axis}: {one} {sign} {other}: {pairs}"


def named(name: str) -> Plot:
    """Read `benchmarks/figures/NAME.yaml`."""
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    rows = {row: _settings(settings) for row, settings in data["rows"].items()}
    panels = tuple(_panel(data, panel) for panel in data["panels"])
    holds = tuple((n, one, sign, other) for n, one, sign, other in data["holds"])
    seeds = range(1, data.get("seeds", 3) + 1)
    return Plot(name, data["title"], rows, panels, seeds, holds)


def _panel(data: dict[str, Any], panel: dict[str, Any]) -> Panel:
    panel = dict(panel)
    column, value = next(iter(panel.pop("only", {}).items()), ("", ""))
    want = Want(panel.pop("metric"), column, value)
    scenario = panel.pop("scenario", data.get("scenario"))
    settings = _settings(data.get("set", {})) + _settings(panel.pop("set", {}))
    without = tuple(panel.pop("without", ()))
    return Panel(want=want, scenario=scenario, settings=settings, without=without, **panel)


def _settings(changes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())
