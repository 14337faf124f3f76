"""A profile that was fitted to a run proves nothing on that run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...policies.errors import InputError
from ...scenarios import build
from ..identify.logs import digest

if TYPE_CHECKING:
    from ...scenarios.grid import Cell


def refuse_fitted(cells: Iterable[Cell], folders: Sequence[Path], paths: Sequence[Path]) -> None:
    """Refuse *paths* that a profile of the scenario was fitted to.

    Raises:
        InputError: one of them is in the stamp of a profile.
    """
    stamps = {
        pool.profile.stamp.source
        for cell in cells
        for pool in build.pools(cell.scenario, folders)
        if pool.profile is not None and pool.profile.stamp.origin == "fitted"
    }
    for path in paths if stamps else ():
        found = digest(path)
        if any(found in source for source in stamps):
            raise InputError(
                f"the profile was fitted to {path}: that it meets this run is no evidence",
                where="--against",
                help="compare with another run, or with the profile that it was fitted from",
            )
