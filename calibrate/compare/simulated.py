"""The simulated side of a comparison: one cell, played as it is and with small changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...scenarios import build
from ...sim.cost.base import StepCost
from ...sim.engine.run import simulate
from ...sim.state.steps import StepLog
from .figures import STATISTICS
from .formats.run_folder import flat, from_columns, series_of
from .measured import Figures, Measured
from .perturb import Change, changed

if TYPE_CHECKING:
    from ...scenarios.grid import Cell
    from ...sim.engine.run import Outcome


class Simulation(NamedTuple):
    """One simulated cell.

    Attributes:
        run: its figures, in the terms of a measured run.
        costs: the cost model of each replica, by its number; None for data-parallel ranks, whose
            steps last as long as the slowest's.
        settings: how the engines are set, where all pools agree; names as in `Measured`.
        source: where step times come from.
        pace_s: of the host when they were calibrated; 0: not known, or pools differ.
    """

    run: Measured
    costs: list[StepCost | None]
    settings: dict[str, object]
    source: str
    pace_s: float = 0.0


def play(
    cell: Cell, folders: Sequence[Path], *, change: Change | None = None, trace: bool = False
) -> Simulation:
    """Simulate *cell* from start to end.

    Args:
        change: a small change of the cluster, to see its effect.
        trace: keep every step; slower, the same figures.

    Raises:
        InfersimError: whatever stops it.
    """
    made = build.assemble(cell, folders)
    config = made.config if change is None else changed(made.config, change)
    log = StepLog() if trace else None
    outcome = simulate(config, made.workload, limits=made.limits, trace=log)
    requests, unfinished = from_columns(outcome.requests)
    records = made.records(outcome, log)
    sizes = {pool.limits.block_size for pool in config.pools}
    run = Measured(
        name=cell.name,
        format="simulation",
        requests=requests,
        given=_given(outcome),
        series=series_of(outcome.series, outcome.totals["kv_blocks"]),
        steps=records.steps,
        kv_blocks=outcome.totals["kv_blocks"],
        block_size=sizes.pop() if len(sizes) == 1 else None,
        unfinished=unfinished,
        cell=cell.name,
        notes=tuple(dict.fromkeys(records.notes)),
    )
    costs = [
        pool.cost if pool.ranks == 1 else None
        for pool in config.pools
        for _ in range(pool.replicas * pool.ranks)
    ]
    hosts = [pool.profile.host for pool in made.pools if pool.profile is not None]
    paces = {host.pace_s for host in hosts if host is not None}
    pace_s = paces.pop() if len(paces) == 1 else 0.0
    return Simulation(run, costs, _settings(cell), records.cost_source, pace_s)


def _given(outcome: Outcome) -> Figures:
    found: Figures = {
        name: {"value": float(outcome.totals[name])} for name in ("preemptions", "steps")
    }
    gaps = outcome.itl
    if gaps.samples:
        cuts = {name: gaps.quantile_s(float(name[1:]) / 100) for name in STATISTICS[1:]}
        found["itl_s"] = {"mean": gaps.mean_s(), **cuts, "n": float(gaps.samples)}
    return found


def _settings(cell: Cell) -> dict[str, object]:
    first, *others = [flat(pool.model_dump(mode="json")) for pool in cell.scenario.pools]
    return {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}
