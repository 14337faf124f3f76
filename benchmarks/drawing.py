"""Pictures of `plots.Plot`: panels side by side, a row for each policy, always the same bytes."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from plots import Panel, Plot, Run, Value, Want

#: Okabe and Ito's colours, which the colour-blind can tell apart, and greys
COLOURS = {"first": "#8c8c8c", "better": "#0072b2", "worse": "#e69f00", "same": "#d4d4d4"}
MEANINGS = {
    "first": "compared with",
    "better": "better, with every seed",
    "worse": "worse, with every seed",
    "same": "no clear difference",
}
STYLE: dict[str, Any] = {
    "svg.hashsalt": "infersim",
    "svg.fonttype": "none",  # text stays text: small, and readable in a diff
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
ROW_INCHES, PANELS_INCHES = 0.235, 9.6
NO_DATE = {"Date": None, "Creator": None}


def draw(plot: Plot, values: dict[tuple[Run, Want], Value], path: Path) -> None:
    """Write *plot* to *path* (SVG)."""
    with mpl.rc_context(STYLE):
        names = max(len(row) for row in plot.rows) * 0.075
        width = names + PANELS_INCHES
        title = fill(plot.title, int(width * 11.5))
        lines = title.count("\n") + 1
        figure = Figure((width, ROW_INCHES * len(plot.rows) + 1.25 + 0.17 * lines))
        legend = 0.45 / figure.get_figheight()
        figure.set_layout_engine("constrained", rect=(0, legend, 1, 1 - legend))
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        grid = figure.subplots(1, len(plot.panels), sharey=True, squeeze=False)[0]
        seen: set[str] = set()
        for panel, axes in zip(plot.panels, grid, strict=True):
            seen |= _panel(axes, plot, panel, values)
        _legend(figure, seen, len(plot.seeds))
        text = f"python benchmarks/figures.py {plot.name}"
        figure.savefig(path, format="svg", metadata={**NO_DATE, "Description": text})


def _panel(axes: Axes, plot: Plot, panel: Panel, values: dict[tuple[Run, Want], Value]) -> set[str]:
    """Draw one metric; the verdicts that occurred."""
    verdicts = set()
    shown = [panel.by_seed(plot, row, values) for row in plot.rows]
    largest = max(max(found, default=0) for found in shown)
    smallest = min(min(found) for found in shown if found)
    for at, (row, found) in enumerate(zip(plot.rows, shown, strict=True)):
        verdict = panel.verdict(plot, row, values)
        if verdict == "none":
            axes.text(0.01, at, "–", va="center", transform=axes.get_yaxis_transform())
            continue
        verdicts.add(verdict)
        middle = panel.mean(plot, row, values) or 0.0
        start = smallest / 1.6 if panel.log else 0
        axes.barh(at, middle - start, left=start, height=0.62, color=COLOURS[verdict])
        axes.plot(
            found, [at] * len(found), linestyle="none", marker="|", color="black", ms=5, mew=0.8
        )
        axes.annotate(
            panel.shown(middle),
            (max([middle, *found]), at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    if panel.log:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 1.6, largest * (largest / smallest) ** 0.28)
    else:
        axes.set_xlim(0, largest * 1.2 or 1)
    axes.set_yticks(range(len(plot.rows)), list(plot.rows))
    axes.set_ylim(len(plot.rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(panel.heading, loc="left", fontsize=9)
    axes.set_xlabel(f"{panel.axis} ({panel.better} is better)")
    return verdicts


def _legend(figure: Figure, seen: set[str], seeds: int) -> None:
    """What the colours mean, those that occur, and the strokes."""
    handles: list[Any] = [Patch(color=COLOURS[v], label=MEANINGS[v]) for v in COLOURS if v in seen]
    figure.legend(
        handles=handles,
        loc="lower left",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        title=f"bar: mean of {seeds} seeds, strokes: each seed" if seeds > 1 else "one seed",
        title_fontsize=8,
        alignment="left",
    )
