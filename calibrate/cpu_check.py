"""The whole loop in small: calibrate, execute, simulate, compare; the cases of a CPU.

Decisions are compared on the executor's virtual clock: every step must be the simulation's. Step
times are compared on the real clock, for workloads that the calibration has not seen; each is
executed twice, so that the machine's own noise stands beside the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ..policies.errors import InputError
from ..scenarios import grid, load
from .compare import steps
from .compare.formats.run_folder import from_columns, series_of
from .compare.measured import Measured
from .compare.simulated import play
from .compare.tolerance import Tolerance
from .compare.validate import validate
from .execute import Options, execute_cell

if TYPE_CHECKING:
    from ..scenarios.grid import Cell
    from ..sim.state.records import CellRecords

THREADS = 1  #: of torch: one that nobody disturbs says more than two that others use as well
REPEATS = 2
BLOCKS = 400
ENGINE = {"max_model_len": 512, "max_num_batched_tokens": 128, "max_num_seqs": 16}
HAPPENINGS = ("preempted", "hit_tokens", "remote_tokens")
_OPEN = {
    "kind": "open-loop",
    "requests": 40,
    "arrivals": 20,
    "system": {"tokens": 40},
    "prompt_tokens": {"kind": "lognormal", "median": 60, "sigma": 0.6, "max": 300},
    "output_tokens": {"kind": "lognormal", "median": 20, "sigma": 0.4, "max": 60},
}
_CHAT = {
    "kind": "chat",
    "sessions": 12,
    "concurrency": 6,
    "think_s": {"kind": "exponential", "mean": 0.01},
    "system": {"tokens": 24},
    "prompt_tokens": {"kind": "uniform", "low": 3, "high": 30},
    "output_tokens": {"kind": "uniform", "low": 5, "high": 20},
}
_BUSY = _OPEN | {"arrivals": 5000, "output_tokens": {"kind": "uniform", "low": 40, "high": 120}}
_LONG = {"output_tokens": {"kind": "lognormal", "median": 40, "sigma": 0.5, "max": 150}}
#: all at one instant, or the real clock would let another request in first
_AT_ONCE = {name: value for name, value in _OPEN.items() if name not in ("requests", "arrivals")}
_AT_ONCE |= _LONG | {"kind": "chat", "turns": 1}


class Case(NamedTuple):
    """A workload under policies.

    Attributes:
        pool: changes of the pool.
        must: what has to happen in it, or it proves too little; a column of the step log.
    """

    workload: dict[str, Any]
    pool: dict[str, Any]
    policies: dict[str, Any]
    must: str


DECISIONS = {
    "prefix hits": Case(_OPEN, {}, {}, "hit_tokens"),
    "preemption": Case(_BUSY, {"kv_blocks": 40}, {}, "preempted"),
    "sarathi": Case(_BUSY, {}, {"scheduling": "sarathi"}, "hit_tokens"),
    "chat, lfu": Case(_CHAT, {"kv_blocks": 34}, {"eviction": "lfu"}, "hit_tokens"),
    "chat, session-ttl": Case(_CHAT, {"kv_blocks": 34}, {"eviction": "session-ttl"}, "hit_tokens"),
    "host memory tier": Case(
        _CHAT, {"kv_blocks": 34, "offload": {"blocks": 300}}, {}, "remote_tokens"
    ),
    "prefill, decode": Case(_OPEN, {"split": True}, {}, "remote_tokens"),
}
TIMED = {
    "all at once": Case(_AT_ONCE | {"sessions": 40, "concurrency": 40}, {}, {}, "hit_tokens"),
    "tight KV": Case(
        _AT_ONCE | {"sessions": 20, "concurrency": 20}, {"kv_blocks": 60}, {}, "preempted"
    ),
    "arrivals": Case(_OPEN | _LONG | {"arrivals": 5}, {}, {}, "hit_tokens"),
}


class Where(NamedTuple):
    """The engine that cases run on, and what computes it.

    Attributes:
        pool: of the scenario, less what a `Case` changes.
        options: of the executor, on the real clock.
        repeats: of every execution.
    """

    pool: dict[str, Any]
    options: Options
    repeats: int


CPU = Where(
    {"gpu": "cpu", "model": "tiny", "kv_blocks": BLOCKS, "engine": ENGINE},
    Options(clock="wall"),
    REPEATS,
)


class Decided(NamedTuple):
    """The decisions of one case in both hosts.

    Attributes:
        steps: of the longer run.
        same: decided alike from the first on, replica by replica.
        first_difference: as of `steps.compare`; None where all are alike.
        happened: preempted requests, tokens found and fetched, in the simulation.
    """

    name: str
    steps: int
    same: int
    first_difference: dict[str, Any] | None
    happened: dict[str, int]

    @property
    def alike(self) -> bool:
        """Whether every step is."""
        return self.first_difference is None


def one_thread() -> None:
    """Compute in this process as the calibration did."""
    import torch

    torch.set_num_threads(THREADS)


def decide(name: str, folder: Path, profile: Path) -> Decided:
    """Execute a case of `DECISIONS` on the virtual clock, and simulate it.

    Raises:
        InfersimError: it cannot be, or what it is for did not happen.
    """
    case = DECISIONS[name]
    source = _source(folder / f"{_file(name)}.yaml", name, case, profile)
    ((_, (cell,)),) = (grid.cells(source),)
    theirs = execute_cell(cell, source.folders, Options()).records
    ours = play(cell, source.folders, trace=True).run
    assert theirs.steps is not None
    assert ours.steps is not None
    found = steps.compare(theirs.steps, ours.steps, ())
    happened = {key: int(ours.steps[key].sum()) for key in HAPPENINGS}
    if not happened[case.must] or ours.unfinished:
        raise InputError(f"{case.must} is 0 or requests failed: it compares too little", where=name)
    longer = max(found["measured"], found["simulated"])
    return Decided(name, longer, found["same"], found["first_difference"], happened)


def measure(
    folder: Path,
    profile: Path,
    tolerances: Sequence[Tolerance] = (),
    notes: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Execute the cases of `TIMED` on the real clock, and compare each with its simulation.

    Returns:
        What `compare.validate.validate` returns: a cell for each case.

    Raises:
        InfersimError: whatever stops it.
    """
    cells = [
        cell
        for name, case in TIMED.items()
        for cell in cells_of(folder / f"timed-{_file(name)}.yaml", name, case, profile)
    ]
    runs = [
        [executed(cell, [folder], turn, CPU, say) for cell in cells] for turn in range(CPU.repeats)
    ]
    return validate(
        cells, [folder], runs, sensitivity=False, tolerances=tolerances, notes=notes, say=say
    )


def cells_of(
    file: Path, name: str, case: Case, profile: Path, where: Where = CPU
) -> Sequence[Cell]:
    """The cells, one as a rule, of a case, which is written to *file* as a scenario."""
    return grid.cells(_source(file, name, case, profile, where))[1]


def executed(
    cell: Cell,
    folders: Sequence[Path],
    turn: int,
    where: Where = CPU,
    say: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Execute *cell* on the real clock, for the *turn*-th time, counted from 0.

    Raises:
        InfersimError: whatever stops it.
    """
    say(f"{cell.name}: run {turn + 1} of {where.repeats} on the real clock")
    records = execute_cell(cell, folders, where.options).records
    return _measured(f"run {turn + 1}", records)


def _source(file: Path, name: str, case: Case, profile: Path, where: Where = CPU) -> load.Source:
    """The case as a file, to be run by itself as well."""
    pool = where.pool | {"profile": str(profile.resolve())} | case.pool
    made: dict[str, Any] = {"name": _file(name), "seed": 1, "cluster": pool}
    if pool.pop("split", False):
        roles = [pool | {"name": role, "role": role} for role in ("prefill", "decode")]
        made |= {"cluster": {"pools": roles}, "links": {"kv": "infiniband-ndr-400g"}}
    made |= {"workload": case.workload, "policies": case.policies}
    file.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    return load.read(str(file))


def _file(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _measured(name: str, records: CellRecords) -> Measured:
    """An execution in the terms of a comparison."""
    requests, unfinished = from_columns(records.requests)
    blocks = records.totals["kv_blocks"]
    return Measured(
        name=name,
        format="executor, real clock",
        requests=requests,
        series=series_of(records.series, blocks),
        steps=records.steps,
        kv_blocks=blocks,
        unfinished=unfinished,
        cell=records.name,
    )
