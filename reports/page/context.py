"""What every part of the page is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...sim.state.records import CellRecords
from ..figures import Line, lines
from ..labels import labels
from ..ranking import Ranking, rank
from .html import Html, Plots, tag


@dataclass(frozen=True, slots=True)
class Context:
    """A run, its names and its ranking.

    Attributes:
        focus: the cell that per-cell parts show first: the best, else the first.
        bins: points of a curve over time at most.
    """

    run_name: str
    cells: Sequence[CellRecords]
    summaries: Sequence[dict[str, Any]]
    scenario_yaml: str
    provenance: dict[str, Any]
    command: str
    names: list[str]
    ranking: Ranking
    lines: list[Line]
    focus: int
    bins: int
    plots: Plots

    @classmethod
    def of(
        cls,
        run_name: str,
        cells: Sequence[CellRecords],
        summaries: Sequence[dict[str, Any]],
        scenario_yaml: str,
        provenance: dict[str, Any],
        command: str,
        bins: int,
    ) -> Context:
        """Name and rank the cells."""
        names, ranking = labels(cells), rank(cells, summaries)
        return cls(
            run_name,
            cells,
            summaries,
            scenario_yaml,
            provenance,
            command,
            names,
            ranking,
            lines(names, ranking),
            ranking.best or 0,
            bins,
            Plots(),
        )

    @property
    def single(self) -> bool:
        """Whether there is nothing to compare."""
        return len(self.cells) == 1

    def picker(self) -> Html:
        """The choice of a cell for the per-cell parts; nothing for a single cell."""
        if self.single:
            return Html("")
        options = [
            tag("option", name, value=i, selected="selected" if i == self.focus else None)
            for i, name in enumerate(self.names)
        ]
        choice = tag("select", *options, class_="cell", autocomplete="off")
        return tag("p", tag("label", "cell: ", choice), class_="pick")

    def per_cell(self, cell: int, *parts: object) -> Html:
        """A part that is shown when *cell* is chosen."""
        name = "" if self.single else tag("p", self.names[cell], class_="which")
        hidden = None if cell == self.focus else "hidden"
        return tag("div", name, *parts, data_cell=cell, hidden=hidden)
