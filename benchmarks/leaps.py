"""Leaps on and off, byte by byte, on every cell of the shipped scenarios, or on every policy.

    python benchmarks/leaps.py [SCENARIO …] [--set KEY=VALUE …] [--first-cell]
    python benchmarks/leaps.py --policies

Prints, per cell, the requests a second of real time both ways, their ratio, and the share of
steps that could not leap. Leaves with 1 when any record differs. Without --first-cell and in full
this takes an hour on two cores; `--set limits.requests=500` is a minute.

--policies takes `policies.yaml` beside this file once for every engine preset and every registered
policy, and the cells of `pd_variants` and `image_pools`, 200 requests each, for those that split.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from infersim.policies.registry import FAMILIES
from infersim.scenarios import build, grid, load
from infersim.scenarios.schema.presets import PRESETS
from infersim.sim.state.records import CellRecords

BASE = str(Path(__file__).with_name("policies.yaml"))
SPLIT = ("pd_variants", "image_pools")
#: what a policy needs beside it: an order to preempt by, or requests that are known beforehand
BESIDE = {
    "preemptive": ("policies.order=shortest-job-first",),
    "belady": (
        "cluster.replicas=1",
        "workload={kind: open-loop, requests: 240, arrivals: 5, max_tokens: 600, "
        "system: {count: 4, tokens: 400}, prompt_tokens: 400, output_tokens: 150}",
    ),
}
#: orders for whole schedules that give way
PREEMPTING = ("mlfq", "srpt", "oracle-srpt", "round-robin")


def differences(a: CellRecords, b: CellRecords) -> list[str]:
    """Names of the columns and totals that are not equal to the last bit."""
    found = []
    for table in ("requests", "series"):
        mine, theirs = getattr(a, table), getattr(b, table)
        found += [
            f"{table}.{name}" for name in mine if not np.array_equal(mine[name], theirs[name])
        ]
    found += [f"totals.{name}" for name in a.totals if a.totals[name] != b.totals[name]]
    if a.itl.samples != b.itl.samples or not np.array_equal(a.itl.counts, b.itl.counts):
        found.append("itl")
    return found


def policies() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(what is shown, a scenario, its settings): every preset and every policy."""
    for preset in PRESETS:
        yield f"preset {preset}", BASE, (f"cluster.engine={preset}",)
    for family in ("scheduling", "order", "victim", "eviction", "routing"):
        for name, _ in FAMILIES[family]:
            beside = BESIDE.get(name, ())
            if family == "order" and name in PREEMPTING:
                beside = ("policies.scheduling=preemptive",)
            yield f"{family} {name}", BASE, (f"policies.{family}={name}", *beside)
    for scenario in SPLIT:
        yield "", scenario, ("limits.requests=200",)


def compared(label: str, scenario: str, settings: tuple[str, ...], *, first: bool) -> int:
    """Print a line a cell; how many are not equal."""
    unequal = 0
    source = load.read(scenario, list(settings))
    _, cells = grid.cells(source)
    for cell in cells[:1] if first else cells:
        leapt, stepped = (
            build.simulate_cell(cell, source.folders, leap=leap, progress=lambda *_: None)
            for leap in (True, False)
        )
        wrong = differences(leapt.records, stepped.records)
        unequal += bool(wrong)
        requests, effort = len(leapt.records.requests["request_id"]), leapt.effort
        fast_s, slow_s = effort.wall_s, stepped.effort.wall_s
        print(
            f"{label or scenario + ': ' + cell.name:58.58} {requests:8d} "
            f"{requests / fast_s:8.0f} {requests / slow_s:8.0f} {slow_s / fast_s:6.1f} "
            f"{1 - effort.leapt_steps / max(effort.steps, 1):8.1%}"
            + (f"  DIFFERS: {', '.join(wrong)}" if wrong else ""),
            flush=True,
        )
    return unequal


def main() -> int:
    """Compare, print a line a cell, and say whether all were equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--first-cell", action="store_true", help="one cell a scenario")
    parser.add_argument("--policies", action="store_true", help="every preset and policy instead")
    options = parser.parse_args()
    print(f"{'cell':58} {'requests':>8} {'leap/s':>8} {'step/s':>8} {'ratio':>6} {'unleapt':>8}")
    if options.policies:
        if options.scenarios:
            parser.error("--policies has scenarios of its own")
        cases = [(label, name, (*own, *options.set)) for label, name, own in policies()]
    else:
        names = options.scenarios or load.shipped()
        cases = [("", name, tuple(options.set)) for name in names]
    unequal = sum(compared(*case, first=options.first_cell) for case in cases)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
