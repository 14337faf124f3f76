"""The executor on the real clock beside the simulation: part "validate" of ``gpu.py``.

Cells are workloads × policies below, at and above the knee. What the knee is, the simulation says:
requests that all come at once are answered at the rate that the profile allows, and cells arrive
at shares of it. Every cell is executed several times and simulated once, with the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from infersim.calibrate.compare.compare import value_of
from infersim.calibrate.compare.ranking import ranking
from infersim.calibrate.compare.simulated import play
from infersim.calibrate.compare.tolerance import Tolerance, check
from infersim.calibrate.compare.validate import validate, without_drawings
from infersim.calibrate.cpu_check import Case, Where, cells_of, executed, one_thread
from infersim.calibrate.execute import Options
from infersim.policies.errors import InfersimError
from infersim.sim.cost.profile import Profile
from infersim.sim.cost.profile import load as load_profile

#: share of the capacity at which requests arrive
LOADS = {"below": 0.5, "knee": 0.9, "above": 1.3}
#: limits in % (points of the hit rate); TTFT at the knee may be further off, as queues amplify
LIMITS = {"step": 3.0, "tpot.mean": 3.0, "ttft.mean": 5.0, "hit": 0.0}
KNEE_TTFT, LEAST_TAU = 10.0, 0.9


class Sizes(NamedTuple):
    """Requests and engine of the cells.

    Attributes:
        system, prompt, output: tokens; prompts and outputs are medians.
        longest: of a request.
        documents, document: how many a prompt may begin with, and the tokens of one.
        budget, sequences: of a step.
        blocks, few_blocks: of KV; the few do not hold all documents.
        seconds: of arrivals.
        fewest, most: requests of a cell; the most are what all come at once.
    """

    system: int
    prompt: int
    output: int
    longest: int
    documents: int
    document: int
    budget: int
    sequences: int
    blocks: int
    few_blocks: int
    seconds: float
    fewest: int
    most: int


GPU = Sizes(128, 512, 128, 4096, 60, 2048, 4096, 256, 18_000, 6_000, 10.0, 60, 600)
CPU = Sizes(24, 60, 20, 512, 12, 96, 128, 16, 400, 60, 0.5, 6, 24)


class Cell(NamedTuple):
    """What is executed and simulated.

    Attributes:
        load: a key of `LOADS`.
        rate: requests a second.
    """

    load: str
    rate: float
    case: Case


def measure(
    folder: Path,
    profile_folder: Path,
    kind: str,
    repeats: int,
    seconds: float | None,
    only: str,
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Execute and simulate every cell of the profile's model.

    Args:
        folder: for the scenarios.
        kind: "cuda" or "cpu".
        seconds: of arrivals in a cell, if not as long as `Sizes` says.
        only: cells whose names contain this.
        keep: is given what there is after each execution.

    Raises:
        InfersimError: the profile cannot be read, or no cell could be executed.
    """
    profile = load_profile(profile_folder)
    sizes = GPU if kind == "cuda" else CPU
    sizes = sizes._replace(seconds=seconds or sizes.seconds)
    where = place(profile, sizes, kind, repeats)
    if kind == "cpu":
        one_thread()
    found = cells(folder, profile_folder, sizes, where)
    chosen = {name: cell for name, cell in found.items() if only in name}
    scenarios = {
        name: cells_of(folder / f"{name}.yaml", name, cell.case, profile_folder, where)[0]
        for name, cell in chosen.items()
    }
    if not scenarios:
        raise InfersimError(f"no cell is named …{only}…; there are: {', '.join(found)}")
    if kind == "cuda":  # libraries load their kernels when they are first needed
        say("a rehearsal, which does not count")
        executed(next(iter(scenarios.values())), [folder], 0, where)
    runs: dict[str, list[Any]] = {name: [] for name in scenarios}
    compared: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for turn in range(repeats):
        for name, scenario in scenarios.items():
            if name in failed:
                continue
            try:
                runs[name].append([executed(scenario, [folder], turn, where, say)])
                (one,) = validate([scenario], [folder], runs[name], sensitivity=False)["cells"]
            except (InfersimError, RuntimeError) as error:
                failed[name] = str(error).splitlines()[0]
                compared.pop(name, None)
                continue
            compared[name] = one
            keep(judged(list(compared.values()), chosen, kind) | {"failed_cells": failed})
    if not compared:
        raise InfersimError(f"no cell could be executed: {next(iter(failed.values()))}")
    return judged(list(compared.values()), chosen, kind) | {"failed_cells": failed}


def place(profile: Profile, sizes: Sizes, kind: str, repeats: int) -> Where:
    """The engine of the cells, and who computes it."""
    held = profile.capacity.kv_blocks if profile.capacity is not None else sizes.blocks
    engine = {
        "max_model_len": sizes.longest,
        "max_num_batched_tokens": sizes.budget,
        "max_num_seqs": sizes.sequences,
    }
    pool = {
        "gpu": profile.stamp.gpu,
        "model": profile.model,
        "kv_blocks": min(held, sizes.blocks),
        "engine": engine,
    }
    backend, device = ("triton", "cuda") if kind == "cuda" else ("torch", "cpu")
    return Where(pool, Options("wall", backend, device), repeats)


def cells(folder: Path, profile: Path, sizes: Sizes, where: Where) -> dict[str, Cell]:
    """Every cell by name, at rates that the simulation allows."""
    found: dict[str, Cell] = {}
    workloads = {
        "chat": (
            _chat(sizes),
            {},
            {"vllm-v1": {}, "prefill-first": {"scheduling": "prefill-first"}},
            LOADS,
        ),
        "documents": (
            _documents(sizes),
            {"kv_blocks": min(sizes.few_blocks, where.pool["kv_blocks"])},
            {"lru": {}, "lfu": {"eviction": "lfu"}},
            ("below", "knee"),
        ),
    }
    for workload, (made, pool, policies, loads) in workloads.items():
        rate = capacity(made, pool, sizes, folder, profile, where)
        for load in loads:
            arrivals = rate * LOADS[load]
            count = round(min(sizes.most, max(sizes.fewest, arrivals * sizes.seconds)))
            asked = made | {"requests": count, "arrivals": arrivals}
            for policy, changes in policies.items():
                case = Case(asked, pool, changes, "hit_tokens")
                found[f"{workload}-{load}-{policy}"] = Cell(load, arrivals, case)
    return found


def capacity(
    workload: dict[str, Any],
    pool: dict[str, Any],
    sizes: Sizes,
    folder: Path,
    profile: Path,
    where: Where,
) -> float:
    """Requests a second that are answered when all come at once, by the simulation.

    The first and the last tenth do not count: the batch is not full then.
    """
    case = Case(workload | {"requests": sizes.most, "arrivals": 1e6}, pool, {}, "hit_tokens")
    with TemporaryDirectory() as scratch:
        (cell,) = cells_of(Path(scratch) / "capacity.yaml", "capacity", case, profile, where)
        requests = play(cell, [folder]).run.requests
    assert requests is not None
    assert requests.arrival_s is not None
    ends = np.sort(requests.arrival_s + requests.e2e_s)
    tenth = max(1, len(ends) // 10)
    return float((len(ends) - 2 * tenth) / (ends[-tenth - 1] - ends[tenth - 1]))


def judged(compared: list[dict[str, Any]], cells: dict[str, Cell], kind: str) -> dict[str, Any]:
    """A row a cell with its checks, the ranking, and the comparison without its drawings."""
    ranked = ranking(compared) if len(compared) > 1 else []
    checks = []
    if kind == "cuda" and ranked:
        checks = check([Tolerance("tau", LEAST_TAU)], compared, ranked)
    return {
        "rows": [_row(cell, cells[cell["name"]], kind) for cell in compared],
        "ranking": [
            {"metric": one["metric"], "stat": one["stat"], "tau": one["tau"]} for one in ranked
        ],
        "checks": checks,
        "comparison": without_drawings({"cells": compared, "ranking": ranked}),
    }


def _row(cell: dict[str, Any], of: Cell, kind: str) -> dict[str, Any]:
    whole = cell["steps"]["times"][0]
    found = {
        "cell": cell["name"],
        "load": of.load,
        "requests_per_s": of.rate,
        "requests": of.case.workload["requests"],
        "steps": cell["steps"]["measured"],
        "same_decisions": cell["steps"]["same"],
        "step_median": whole["median"],
        "step_bias": whole["bias"],
        "step_noise": whole["noise"],
    }
    for metric, stat in _FIGURES:
        row = value_of(cell, metric, stat)
        name = metric if stat == "value" else f"{metric.removesuffix('_s')}_{stat}"
        found[name] = row and {key: row[key] for key in ("measured", "simulated", "error", "noise")}
    limits = LIMITS | ({"ttft.mean": KNEE_TTFT} if of.load == "knee" else {})
    wanted = [Tolerance(*one) for one in limits.items()] if kind == "cuda" else []
    found["checks"] = check(wanted, [cell], [])
    return found


_FIGURES = (
    *((metric, stat) for metric in ("tpot_s", "ttft_s", "e2e_s") for stat in ("mean", "p90")),
    ("output_tokens_per_s", "value"),
    ("hit_rate", "value"),
)


def broken(result: dict[str, Any]) -> Iterator[str]:
    """Every limit that a cell, or their ranking, does not keep."""
    for row in result["rows"]:
        for one in row["checks"]:
            if not one["met"]:
                yield f"{row['cell']}: {one['name']} {one['worst']} (limit {one['limit']})"
    for one in result["checks"]:
        if not one["met"]:
            yield f"{one['name']} {one['worst']} (at least {one['limit']}; {one['at']})"


def _chat(sizes: Sizes) -> dict[str, Any]:
    """Prompts behind a system prompt that all have."""
    return {
        "kind": "open-loop",
        "system": {"tokens": sizes.system},
        "prompt_tokens": _about(sizes.prompt, 0.6, sizes.longest // 2),
        "output_tokens": _about(sizes.output, 0.4, sizes.longest // 4),
    }


def _documents(sizes: Sizes) -> dict[str, Any]:
    """Questions about documents, some of them popular."""
    kept = {
        "count": sizes.documents,
        "zipf": 1.1,
        "tokens": sizes.document,
        "per_request": 1,
    }
    return _chat(sizes) | {"documents": kept, "prompt_tokens": _about(32, 0.4, 64)}


def _about(median: int, sigma: float, most: int) -> dict[str, Any]:
    return {"kind": "lognormal", "median": median, "sigma": sigma, "max": most}
