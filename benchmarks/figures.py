"""Every picture of docs/figures/, from shipped scenarios, by one command.

    python benchmarks/figures.py [NAME …] [--out docs/figures] [--jobs N]

`benchmarks/figures/NAME.yaml` says what a picture shows (`plots.py` reads it): a shipped scenario
for each panel, what is changed in it, a row for each policy, one metric a panel. Every row is run
with the same seeds. The numbers are printed as tables, so that what a document quotes beside a
picture comes from the run that drew it; exit 1 when a title's claim does not hold with every seed.
The same seeds and the same release of matplotlib give the same bytes. All of them take
minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import drawing
from plots import PLOTS, Plot, Run, Value, Want, named

ROOT = Path(__file__).parents[1]


def wanted(plots: Sequence[Plot]) -> dict[Run, list[Want]]:
    """What has to be run, each once, and what is read from it."""
    runs: dict[Run, list[Want]] = defaultdict(list)
    for plot in plots:
        for panel in plot.panels:
            for run in panel.runs(plot):
                runs[run].append(panel.want)
    return runs


def table(plot: Plot, values: dict[tuple[Run, Want], Value]) -> str:
    """The numbers of a picture in Markdown: means over the seeds."""
    lines = [f"### {plot.name}: {plot.title}", ""]
    lines.append("| | " + " | ".join(f"{p.heading}: {p.axis}" for p in plot.panels) + " |")
    lines.append("|---|" + "---|" * len(plot.panels))
    for row in plot.rows:
        shown = [panel.shown(panel.mean(plot, row, values)) for panel in plot.panels]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, draw, print; 1 when a title says what the numbers do not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLOTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--jobs", type=int, default=None, help="processes; all cores")
    options = parser.parse_args()
    for name in options.names:
        if name not in PLOTS:
            parser.error(f"there is no figure {name}; there are {', '.join(PLOTS)}")
    plots = [named(name) for name in options.names or PLOTS]
    options.out.mkdir(parents=True, exist_ok=True)
    wrong, began = 0, time.perf_counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        under_way = {run: pool.submit(run.values, want) for run, want in wanted(plots).items()}
        for number, plot in enumerate(plots, 1):
            values = {
                (run, panel.want): under_way[run].result()[panel.want]
                for panel in plot.panels
                for run in panel.runs(plot)
            }
            drawing.draw(plot, values, options.out / f"{plot.name}.svg")
            print(table(plot, values), flush=True)
            spent = time.perf_counter() - began
            print(
                f"{number} of {len(plots)}: {plot.name}, {spent:.0f} s", file=sys.stderr, flush=True
            )
            for claim in plot.broken(values):
                wrong += 1
                print(f"{plot.name}: the title does not hold: {claim}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
