"""A whole scenario beside its measured runs: every cell, the ranking of cells, the checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import Varied, compare
from .match import match
from .measured import Measured
from .perturb import CHANGES
from .ranking import ranking
from .simulated import play
from .tolerance import Tolerance, check

if TYPE_CHECKING:
    from ...scenarios.grid import Cell

FORMAT = "infersim-validation"
VERSION = 1
#: parts of a cell that only figures are drawn from, and that JSON leaves out
_DRAWN = ("samples",)


def validate(
    cells: Sequence[Cell],
    folders: Sequence[Path],
    runs: Sequence[Sequence[Measured]],
    *,
    sensitivity: bool = True,
    tolerances: Sequence[Tolerance] = (),
    notes: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Simulate *cells* and compare each with what was measured of it.

    Args:
        cells: of one scenario.
        folders: what relative paths in it are searched in.
        runs: what each ``--against`` holds.
        sensitivity: simulate every cell four times more, with `perturb.CHANGES`.
        tolerances: limits to check.
        notes: what the reader must know of every cell.
        say: is told what is being done.

    Raises:
        InputError: runs and cells do not go together, or a cell cannot be simulated.
    """
    found = []
    for cell, measured in zip(cells, match([c.name for c in cells], runs), strict=True):
        say(f"{cell.name}: simulating")
        simulation = play(cell, folders, trace=measured[0].steps is not None)
        varied = []
        for change in CHANGES if sensitivity else ():
            say(f"{cell.name}: simulating with {change.name}")
            varied.append(Varied(change, play(cell, folders, change=change).run))
        warm_up_s = cell.scenario.warm_up_s
        compared = compare(cell.name, measured, simulation, varied, warm_up_s=warm_up_s)
        compared["caveats"]["notes"][:0] = notes
        found.append(compared)
    ranks = ranking(found) if len(found) > 1 else []
    return {
        "format": FORMAT,
        "version": VERSION,
        "cells": found,
        "ranking": ranks,
        "checks": check(tolerances, found, ranks),
    }


def without_drawings(result: dict[str, Any]) -> dict[str, Any]:
    """*result* of `validate` without the points of its figures."""
    cells = []
    for cell in result["cells"]:
        kept = {key: value for key, value in cell.items() if key not in _DRAWN}
        kept["series"] = {
            name: {key: value for key, value in one.items() if not isinstance(value, list)}
            for name, one in cell["series"].items()
        }
        if cell["steps"] is not None:
            kept["steps"] = {k: v for k, v in cell["steps"].items() if k != "points"}
        cells.append(kept)
    return result | {"cells": cells}
