"""Which measured runs belong to which cell of the scenario."""

from __future__ import annotations

from collections.abc import Sequence

from ...policies.errors import InputError
from .measured import Measured


def match(names: Sequence[str], runs: Sequence[Sequence[Measured]]) -> list[list[Measured]]:
    """The runs of each cell, in the order of *names*; several of one cell are its repeats.

    A scenario of one cell takes all the runs. Cells of a run folder go by their names. Otherwise
    there must be one run a cell, in the order of the cells.

    Args:
        runs: what each ``--against`` holds: one run, or the cells of a folder.

    Raises:
        InputError: a cell has no run, or a run belongs to no cell.
    """
    flat = [run for one in runs for run in one]
    if len(names) == 1 and all(len(one) == 1 for one in runs):
        return [flat]
    if all(run.cell in names for run in flat):
        found = [[run for run in flat if run.cell == name] for name in names]
        missing = [name for name, mine in zip(names, found, strict=True) if not mine]
        if missing:
            raise _unmatched(names, f"no run of {', '.join(missing)}")
        return found
    if len(flat) == len(names):
        return [[run] for run in flat]
    raise _unmatched(names, f"{len(flat)} runs for {len(names)} cells")


def _unmatched(names: Sequence[str], message: str) -> InputError:
    return InputError(
        message,
        where="--against",
        help="give a run folder with cells of the same names, or one run a cell in this order: "
        + ", ".join(names)
        + "; or fix the cell: --set compare=null",
    )
