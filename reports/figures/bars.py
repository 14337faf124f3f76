"""Horizontal bars, one row a cell, the name above its bar so that it fits a phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .style import axis, digits, label, layout, plain

_ROW_PX = 40
_LONGEST_NAME = 38  # what fits a phone


class Part(NamedTuple):
    """One colour of the stack: a value a row."""

    name: str
    color: str
    values: Sequence[float]


def bars(
    rows: Sequence[str],
    shown: Sequence[str],
    parts: Sequence[Part],
    x_title: str,
    *,
    marked: int | None = None,
    x_max: float | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Data and layout of stacked bars from zero.

    Args:
        rows: name of each row, top first.
        shown: its value as text, written after the name.
        x_title: axis name with its unit.
        marked: row in bold.
        x_max: end of the axis; None for the data's.
    """
    places = list(range(len(rows)))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(part.name),
            "y": places,
            "x": digits(part.values),
            "width": 0.42,
            "marker": {"color": part.color},
            "customdata": [plain(row) for row in rows],
            "hovertemplate": f"%{{customdata}}<br>{plain(part.name)}: %{{x:.4~s}}<extra></extra>",
        }
        for part in parts
    ]
    notes = [_name(i, name, shown[i], bold=i == marked) for i, name in enumerate(rows)]
    upper = {"range": [0, x_max]} if x_max is not None else {"rangemode": "tozero"}
    x_axis = axis(x_title, **upper, zeroline=True, fixedrange=True)
    y_axis = {
        "range": [len(rows) - 0.6, -0.95],
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }
    frame = layout(
        _ROW_PX * len(rows) + 70,
        barmode="stack",
        xaxis=x_axis,
        yaxis=y_axis,
        annotations=notes,
        margin={"l": 10, "r": 16, "t": 4, "b": 44},
    )
    return data, frame


def _name(row: int, name: str, shown: str, *, bold: bool) -> dict[str, Any]:
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    text = f"{plain(name)}  <b>{plain(shown)}</b>"
    return label(
        f"<b>★ {text}</b>" if bold else text,
        0,
        row - 0.42,
        xref="paper",
        xanchor="left",
        yanchor="middle",
        align="left",
    )
