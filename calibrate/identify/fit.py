"""``infersim calibrate fit``: from a log and a scenario to a profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...policies.errors import InputError
from ...scenarios import grid
from ...scenarios.load import Source
from ...scenarios.schema.named import catalogued
from ...sim.cost.profile import Profile, load
from ..compare import replay
from ..compare.formats import load as load_run
from ..compare.measured import Measured
from ..compare.simulated import Simulation, play
from ..measure.shapes import Shapes, check
from .datasheet import datasheet_profile
from .families import columns
from .fitted_profile import fitted_profile
from .logs import digest, read
from .observed import Run, requests_of
from .solve import Identified, identify

if TYPE_CHECKING:
    from ...scenarios.grid import Cell
    from ...scenarios.schema.pool import PoolSpec

_MOST_TOKENS = 1 << 17  #: longest context that tables of a datasheet reach


class Fit(NamedTuple):
    """What `fit` found."""

    profile: Profile
    run: Run
    found: Identified

    def plain(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "run": self.run.name,
            "sha256": self.run.digest,
            "timings": len(self.run.observations),
            "kv_blocks": self.run.kv_blocks,
            "condition": self.found.condition,
            "terms": [
                {**term._asdict(), "identified": term.identified}
                for term in self.found.terms.values()
            ],
            "notes": list(self.profile.notes),
        }


def fit(
    path: Path,
    source: Source,
    version: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Fit:
    """The profile of the scenario's model and GPU that explains the run at *path*.

    Starts from the profile that the scenario names, else from its GPU's datasheet. A log of steps
    is fitted as it is. A log of requests is fitted to the simulated steps between the first and
    the last token of each, so the scenario must be that run's.

    Args:
        version: of infersim, for the stamp.
        say: is told what is being done.

    Raises:
        InputError: the log cannot be read or is a cost model's, the scenario has cells or several
            kinds of pools, or there is too little to fit to.
    """
    _, cells = grid.cells(source)
    if len(cells) != 1 or len(cells[0].scenario.pools) != 1:
        raise InputError(
            "a run is fitted with a scenario of one cell and one pool",
            where="--scenario",
            help="--set compare=null, or --set of each compared key",
        )
    pool = cells[0].scenario.pools[0]
    base = _base(pool, source)
    simulated: list[Simulation] = []

    def simulation(cell: Cell = cells[0]) -> Simulation:
        if not simulated:
            say("simulating the scenario")
            simulated.append(play(cell, source.folders, trace=True))
        return simulated[0]

    run = read(path, pool.block_size, _mean_context(simulation))
    if run is None:
        run = _requests(path, source, say)
    run.check()
    say(f"fitting to {len(run.observations)} timings")
    names, matrix = columns(base, [one.steps for one in run.observations])
    seconds = np.array([one.seconds for one in run.observations])
    found = identify(names, matrix, seconds)
    return Fit(fitted_profile(base, run, found, pool.engine, version), run, found)


def _base(pool: PoolSpec, source: Source) -> Profile:
    named: str | None = getattr(pool, "profile", None)
    if named:
        places = [Path(named), *(folder / named for folder in source.folders)]
        return load(next((place for place in places if place.is_dir()), places[0]))
    model = catalogued("model", pool.model, source.folders)
    gpu = catalogued("gpu", pool.gpu, source.folders)
    dtype = model.format(pool.dtype).name
    check(model, dtype, pool.tp, wide=False)
    shapes = Shapes(
        model,
        dtype,
        "fp8" if pool.kv_dtype.startswith("fp8") else "bf16",
        pool.tp,
        gpu.name == "cpu",
        pool.block_size,
        pool.engine.max_num_batched_tokens,
        pool.engine.max_num_seqs,
        _MOST_TOKENS,
    )
    return datasheet_profile(shapes, gpu)


def _mean_context(simulation: Callable[[], Simulation]) -> Callable[[], float]:
    """Mean KV tokens of a decoding sequence in the simulated scenario, asked for when needed."""

    def mean() -> float:
        steps = simulation().run.steps
        assert steps is not None
        decodes = int(steps["decodes"].sum())
        return float(steps["decode_context_tokens"].sum()) / max(1, decodes)

    return mean


def _requests(path: Path, source: Source, say: Callable[[str], None]) -> Run:
    """A run of requests, beside the simulation of the same requests."""
    (measured,) = load_run(path)
    with TemporaryDirectory() as folder:
        if measured.requests is not None and measured.requests.arrival_s is not None:
            trace = Path(folder) / "replay.jsonl"
            replay.write(trace, measured)
            source = replay.replayed(source, trace)
        _, cells = grid.cells(source)
        say("simulating the run's requests")
        simulation = play(cells[0], source.folders, trace=True)
    return _of_requests(path, measured, simulation)


def _of_requests(path: Path, measured: Measured, simulation: Simulation) -> Run:
    run = Run(measured.name, measured.format, digest(path), requests_of(measured, simulation))
    run.kv_blocks, run.block_size = measured.kv_blocks, measured.block_size
    run.notes.append(
        "fitted to the time from first to last token of every request and the simulated steps in "
        "it: what steps are made of is the simulation's"
    )
    return run
