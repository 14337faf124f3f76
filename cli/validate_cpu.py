"""``infersim validate-cpu``: calibrate, execute, simulate and compare on this machine's CPU."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..policies.errors import InputError
from .calibrating import CalibrationView
from .codes import FAILED, OK, InterruptedByUserError
from .console import note, print_json, print_table

if TYPE_CHECKING:
    from ..calibrate.cpu_check import Decided

RESULT, PAGE = "validation.json", "report.html"
MINUTES = 2.0  #: of calibration at most


def validate_cpu(
    out: Annotated[
        Path, typer.Option(help="Folder of the profile, the scenarios and the result.")
    ] = Path("runs/validate-cpu"),
    profile: Annotated[
        Path | None, typer.Option(help="One of the model tiny that is there already.")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LIMIT,…", help="Leave with 1 beyond, e.g. step=10."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print validation.json, only that.")] = False,
) -> int:
    """Try the whole loop on this machine's CPU: calibrate, execute, simulate, compare.

    Takes a minute or two, needs torch and no GPU. Decisions of seven workloads are compared step
    by step on a virtual clock: one that differs is a fault, and the exit code is 1. Step times of
    three workloads are compared on the real clock, each executed twice: how far equal steps of two
    runs lie apart stands beside the error. Leave the machine alone meanwhile.
    """
    from ..calibrate import cpu_check
    from ..calibrate.compare.tolerance import parse
    from ..calibrate.compare.validate import without_drawings
    from ..calibrate.execute import Options, check_installed
    from ..reports.files import write_text
    from ..reports.metrics import dumps
    from ..reports.validation import render, write_page

    begun, limits = perf_counter(), parse(tolerance or ())
    check_installed(Options())
    say = (lambda text: None) if quiet else note
    out.mkdir(parents=True, exist_ok=True)
    measured = profile or out / "profile"
    if profile is None and not _calibrated(measured, quiet=quiet):
        raise InterruptedByUserError(
            "interrupted; what is measured is kept, and the same command goes on"
        )
    cpu_check.one_thread()
    decided = []
    for n, name in enumerate(cpu_check.DECISIONS, 1):
        say(f"{name}: decisions, {n} of {len(cpu_check.DECISIONS)}")
        decided.append(cpu_check.decide(name, out, measured))
    result = cpu_check.measure(out, measured, limits, [_told(one) for one in decided], say)
    command = "infersim validate-cpu"
    result = {
        "scenario": "validate-cpu",
        "seed": 1,
        "infersim": __version__,
        "command": command,
        "decisions": [one._asdict() for one in decided],
        **result,
    }
    write_text(out / RESULT, dumps(without_drawings(result)))
    write_page(out / PAGE, result, command, __version__)
    if json:
        print_json(without_drawings(result))
    else:
        _print(decided, result)
        typer.echo(f"\n{render(result)}\n\n{out / PAGE} ({perf_counter() - begun:.0f} s)")
    met = all(one.alike for one in decided) and all(row["met"] for row in result["checks"])
    return OK if met else FAILED


def _calibrated(folder: Path, *, quiet: bool) -> bool:
    """Whether the profile is whole; it goes on where an earlier one was cut off.

    Raises:
        InputError: there was too little time for one.
    """
    from ..calibrate.cpu_check import THREADS
    from ..calibrate.session import Request, calibrate

    request = Request("cpu", "tiny", folder, MINUTES, threads=THREADS, version=__version__)
    with CalibrationView(MINUTES, quiet=quiet) as view:
        done = calibrate(request, view.hear)
    for warning in done.warnings:
        note(f"warning: {warning}")
    if done.outcome.stopped == "interrupted":
        return False
    if done.assembled is None:
        raise InputError(
            f"{MINUTES:g} minutes were not enough to calibrate", help="the same command goes on"
        )
    return True


def _told(one: Decided) -> str:
    """A case of decisions in a sentence."""
    return f"virtual clock, {one.name}: {one.same:,} of {one.steps:,} steps decided alike"


def _print(decided: list[Decided], result: dict[str, Any]) -> None:
    """Decisions, then step times, a row a case."""
    rows = [[one.name, one.same, one.steps, *one.happened.values()] for one in decided]
    head = ["decisions", "steps alike", "of", "preempted", "hit tokens", "fetched tokens"]
    print_table(head, rows)
    print_table(
        ["\nstep times", "steps", "median error", "p95", "bias", "repeats apart"],
        [
            [f"{cell['name']}: {row['kind']}", row["n"], *map(_percent, _errors(row))]
            for cell in result["cells"]
            for row in cell["steps"]["times"]
        ],
    )


def _errors(row: dict[str, Any]) -> list[float | None]:
    return [row[name] for name in ("median", "p95", "bias", "noise")]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
