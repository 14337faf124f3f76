"""``infersim run``: a scenario in, a folder with the answer out."""

from __future__ import annotations

import shlex
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..policies.errors import InfersimError
from .codes import BAD_INPUT, FAILED, OK, SLO_MISSED, InterruptedByUserError
from .console import complain, note, print_json
from .output import RunFolder
from .progress import ProgressView

if TYPE_CHECKING:
    from ..scenarios.runner import Outcome


def run(
    scenario: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped scenario.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Over the scenario's own seed.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes for the cells; as many as cores.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME-HASH if left out.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print summary.json, only that.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    leap: Annotated[bool, typer.Option(help="Leap over steps that repeat; same results.")] = True,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write steps.parquet: a row a step; never leaps.")
    ] = False,
    fail: Annotated[bool, typer.Option(help="Leave with 3 where no cell meets the SLO.")] = True,
) -> int:
    """Simulate a scenario, or every cell of its `compare:` grid, and write a report.

    `infersim run agent_loop` runs a shipped scenario;
    `infersim run my.yaml --set cluster.replicas=8 --set policies.eviction=lfu` changes keys of
    yours (a compared key is fixed); `--set compare=null` runs one cell. The folder of the run has
    report.html, summary.json, requests.parquet, series.parquet, timing.json and scenario.yaml,
    which runs again. Ctrl-C keeps the cells that have ended, in a folder that ends in -incomplete.
    """
    from ..scenarios import build, grid, load, runner, sampling

    source = load.read(scenario, set_ or (), seed)
    base, cells = grid.cells(source)
    wanted = [*cells, *sampling.samples(cells)]
    scenarios = [cell.scenario for cell in cells]
    target = RunFolder.choose(base, build.inputs(scenarios, source.folders), out)
    if not quiet:
        for line in build.capacity_lines(scenarios, source.folders):
            note(line)
    start = perf_counter()
    with ProgressView([cell.name for cell in wanted], quiet=quiet) as view:
        outcome = runner.run_cells(
            wanted,
            source.folders,
            jobs=jobs or runner.cores(),
            leap=leap,
            trace=trace,
            listen=view.hear,
        )
    for error in dict.fromkeys(str(source.located(failed.error)) for failed in outcome.failed):
        complain(InfersimError(error))
    if all(wanted[one.cell].sample for one in outcome.finished):
        return _code(outcome, None, fail=fail)
    timing = {
        "wall_s": perf_counter() - start,
        "jobs": jobs or runner.cores(),
        "leap": leap and not trace,
    }
    command = _command(scenario, set_, seed)
    written = target.write(wanted, outcome, timing, command=command, report=report)
    if not quiet:
        note(_effort(outcome))
    if json:
        print_json(written.summary)
    else:
        typer.echo(f"{written.text}\n\n{written.file}")
    return _code(outcome, written.summary, fail=fail)


def _command(scenario: str, settings: list[str] | None, seed: int | None) -> str:
    """What to type to get the same figures."""
    words = ["infersim", "run", scenario]
    for setting in settings or ():
        words += ["--set", setting]
    if seed is not None:
        words += ["--seed", str(seed)]
    return shlex.join(words)


def _effort(outcome: Outcome) -> str:
    """What the run cost, in one line."""
    steps = sum(one.effort.steps for one in outcome.finished)
    leapt = sum(one.effort.leapt_steps for one in outcome.finished)
    share = (steps - leapt) / steps if steps else 0.0
    return f"{steps:,} engine steps; {share:.1%} of them could not be leapt over"


def _code(outcome: Outcome, summary: dict[str, Any] | None, *, fail: bool) -> int:
    if outcome.interrupted:
        kept = "the cells that had ended are kept" if summary else "no cell had ended"
        raise InterruptedByUserError(f"interrupted; {kept}")
    if outcome.failed:
        return BAD_INPUT if any(failed.bad_input for failed in outcome.failed) else FAILED
    goals = [cell["metrics"]["slo_met"] for cell in summary["cells"]] if summary else []
    missed = bool(goals) and not any(goal is not False for goal in goals)
    return SLO_MISSED if missed and fail else OK
