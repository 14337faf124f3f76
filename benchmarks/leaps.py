"""Leaps on and off, byte by byte, on every cell of the shipped scenarios.

    python benchmarks/leaps.py [SCENARIO …] [--set KEY=VALUE …] [--first-cell]

Prints, per cell, the requests a second of real time both ways, their ratio, and the share of
steps that could not leap. Leaves with 1 when any record differs. Without --first-cell and in full
this takes an hour on two cores; `--set limits.requests=500` is a minute.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from infersim.scenarios import build, grid, load
from infersim.sim.state.records import CellRecords


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


def main() -> int:
    """Compare, print a line a cell, and say whether all were equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scenarios", nargs="*", default=load.shipped())
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--first-cell", action="store_true", help="one cell a scenario")
    options = parser.parse_args()
    unequal = 0
    print(f"{'cell':58} {'requests':>8} {'leap/s':>8} {'step/s':>8} {'ratio':>6} {'unleapt':>8}")
    for name in options.scenarios:
        source = load.read(name, options.set)
        _, cells = grid.cells(source)
        for cell in cells[:1] if options.first_cell else cells:
            leapt, stepped = (
                build.simulate_cell(cell, source.folders, leap=leap, progress=lambda *_: None)
                for leap in (True, False)
            )
            wrong = differences(leapt.records, stepped.records)
            unequal += bool(wrong)
            requests, effort = len(leapt.records.requests["request_id"]), leapt.effort
            fast_s, slow_s = effort.wall_s, stepped.effort.wall_s
            print(
                f"{name + ': ' + cell.name:58.58} {requests:8d} {requests / fast_s:8.0f} "
                f"{requests / slow_s:8.0f} {slow_s / fast_s:6.1f} "
                f"{1 - effort.leapt_steps / max(effort.steps, 1):8.1%}"
                + (f"  DIFFERS: {', '.join(wrong)}" if wrong else ""),
                flush=True,
            )
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
