"""``uncertainty:`` → every cell again and again, each time with other errors in its step times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

from ..sim.cost.ops import Family
from ..sim.cost.scaled import perturbed
from ..sim.state.config import ClusterConfig
from ..sim.state.streams import Streams
from .grid import Cell

#: what has an error of its own in a sample; the same one in every pool and cell
ERRORS = (*get_args(Family), "host", "roofline")


def samples(cells: Iterable[Cell]) -> list[Cell]:
    """The perturbed runs of *cells*, in their order; none for a scenario that asks for none."""
    return [
        replace(cell, name=f"{cell.name} · sample {k}", sample=k, whose=cell.name)
        for cell in cells
        if cell.scenario.uncertainty is not None
        for k in range(1, cell.scenario.uncertainty.samples + 1)
    ]


def disturbed(config: ClusterConfig, cell: Cell) -> ClusterConfig:
    """*config* with the step times of the cell's sample; as it is for the cell itself."""
    uncertainty = cell.scenario.uncertainty
    if not cell.sample or uncertainty is None:
        return config
    seed = cell.scenario.seed if uncertainty.seed is None else uncertainty.seed
    streams = Streams(seed)
    draws = {
        error: float(streams.get("uncertainty", cell.sample, error).standard_normal())
        for error in ERRORS
    }
    pools = (replace(pool, cost=perturbed(pool.cost, draws)) for pool in config.pools)
    return replace(config, pools=tuple(pools))
