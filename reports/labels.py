"""Short names of cells, and which few of many a chart singles out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..sim.state.records import CellRecords

_LONGEST_VALUE = 40


def labels(cells: Sequence[CellRecords]) -> list[str]:
    """One short, unique label a cell: the values of what differs, "lru · round-robin".

    Where a value is a structure too long to read, the cells go by their names.
    """
    keys = varied(cells)
    found = [" · ".join(_part(key, cell.params[key]) for key in keys) for cell in cells]
    unreadable = any(
        not isinstance(cell.params[key], str) and len(text(cell.params[key])) > _LONGEST_VALUE
        for cell in cells
        for key in keys
    )
    if len(set(found)) == len(cells) and all(found) and not unreadable:
        return found
    return [cell.name or f"cell {i + 1}" for i, cell in enumerate(cells)]


def varied(cells: Sequence[CellRecords]) -> list[str]:
    """The compared keys, in order, that every cell has and that take more than one value."""
    if not cells:
        return []
    common = [key for key in cells[0].params if all(key in cell.params for cell in cells)]
    return [key for key in common if len({text(cell.params[key]) for cell in cells}) > 1]


def short(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]


def text(value: Any) -> str:
    """A parameter's value as typed; structures as compact JSON; a plug-in without its folder."""
    if isinstance(value, str):
        return value.rsplit("/", 1)[-1] if ".py:" in value else value
    if isinstance(value, dict | list | tuple):
        value = json.dumps(value, separators=(",", ":"), default=str)
    return str(value)


def _part(key: str, value: Any) -> str:
    shown = text(value)
    if len(shown) > _LONGEST_VALUE:
        shown = shown[: _LONGEST_VALUE - 1] + "…"
    return shown if isinstance(value, str) else f"{short(key)}={shown}"
