"""Colours, dashes, axes and rounding that every figure shares.

Figures are plotly.js JSON built here; the page only draws them and puts its own text and grid
colours on (`assets/report.js`). Legends are HTML, so that they never cover a plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

from ..ranking import Ranking

#: Okabe and Ito's colours that show on white and on near-black.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
OTHERS = "#9aa0a6"
MAX_SERIES = 6
_LONGEST_TAG = 20


class Key(NamedTuple):
    """One legend entry: *dash* is "" for a filled swatch."""

    label: str
    color: str
    dash: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart.

    Attributes:
        title: the finding.
        alt: one line with the main numbers, for those who do not see the plot.
        data, layout: plotly.js.
        legend: entries shown above the plot.
    """

    title: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    legend: list[Key] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Line:
    """How one cell is drawn in every line chart of the page.

    Attributes:
        cell: its index.
        label: its short name.
        tag: what stands at the line: a role ("best") when not all cells can be singled out.
        singled: False for the grey crowd.
    """

    cell: int
    label: str
    tag: str
    color: str
    dash: str
    marker: str
    singled: bool

    @property
    def key(self) -> Key:
        """Its legend entry."""
        role = "" if self.tag == self.label else f"{self.tag}: "
        return Key(f"{role}{self.label}", self.color, self.dash)


def lines(names: Sequence[str], ranking: Ranking) -> list[Line]:
    """One `Line` a cell; beyond six cells all but best, worst, first and bound are grey.

    The grey ones come first, so that the others are drawn over them.
    """
    if len(names) <= MAX_SERIES:
        return [_line(i, name, name, i) for i, name in enumerate(names)]
    roles: dict[int, list[str]] = {}
    for role, cell in (
        ("best", ranking.best),
        ("first", 0),
        ("worst", ranking.worst),
        ("bound", ranking.bound),
    ):
        if cell is not None:
            roles.setdefault(cell, []).append(role)
    singled = [_line(i, names[i], " and ".join(r), n) for n, (i, r) in enumerate(roles.items())]
    crowd = [
        Line(i, name, "", OTHERS, "solid", "circle", singled=False)
        for i, name in enumerate(names)
        if i not in roles
    ]
    return crowd + singled


def _line(cell: int, label: str, tag: str, n: int) -> Line:
    return Line(cell, label, tag, PALETTE[n], DASHES[n], MARKERS[n], singled=True)


def legend(drawn: Iterable[Line]) -> list[Key]:
    """Entries of a line chart: the singled ones, then one for the crowd."""
    all_lines = list(drawn)
    if len(all_lines) < 2:
        return []
    keys = [line.key for line in all_lines if line.singled]
    crowd = len(all_lines) - len(keys)
    return keys + ([Key(f"{crowd} others", OTHERS, "solid")] if crowd else [])


def plain(text: str) -> str:
    """*text* for plotly, which would read tags and %{…} in it."""
    return escape(text, quote=False).replace("%{", "% {")


def short_tag(text: str) -> str:
    """*text* cut to what fits beside a curve on a phone."""
    return text if len(text) <= _LONGEST_TAG else text[: _LONGEST_TAG - 1] + "…"


def digits(values: Iterable[float], n: int = 4) -> list[float]:
    """*values* to *n* significant digits, to keep the page small."""
    return [float(f"{value:.{n}g}") for value in values]


def axis(title: str, **given: Any) -> dict[str, Any]:
    """An axis with its name and unit."""
    return {"title": {"text": title, "standoff": 8}, "automargin": True, **given}


def log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A log axis from *low* to *high* with ticks at 1, 2 and 5 as far as they fit."""
    first, last = math.log10(low), math.log10(high)
    steps = (1, 2, 5) if last - first < 2.4 else (1,)
    powers = range(math.floor(first), math.ceil(last) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    pad = 0.04 * max(last - first, 0.5)
    return axis(
        f"{title} (log)",
        type="log",
        range=digits([first - pad, last + pad]),
        tickvals=ticks,
        ticktext=[f"{tick:,.10g}" for tick in ticks],
    )


def layout(height: int, **given: Any) -> dict[str, Any]:
    """A layout of *height* pixels without colours of its own."""
    base = {
        "height": height,
        "margin": {"l": 44, "r": 14, "t": 10, "b": 44},
        "showlegend": False,
        "hovermode": "closest",
        "font": {"size": 12},
    }
    return base | given


def label(text: str, x: float, y: float, **given: Any) -> dict[str, Any]:
    """Text in the plot; the page gives it the background of the card."""
    base = {"text": text, "x": x, "y": y, "showarrow": False, "name": "label", "borderpad": 1}
    return base | given
