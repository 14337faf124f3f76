"""``infersim validate``: a scenario beside what was measured of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import __version__
from ..policies.errors import InputError
from .codes import FAILED, OK
from .console import note

if TYPE_CHECKING:
    from ..calibrate.compare.measured import Measured
    from ..scenarios.load import Source

RESULT = "validation.json"
PAGE = "report.html"
TRACE = "replay.jsonl"


def validate(
    scenario: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped scenario.")
    ],
    against: Annotated[
        list[Path],
        typer.Option(
            metavar="RUN",
            help="What was measured; repeat it for repeats of a run, or one for each cell.",
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Over the scenario's own seed.")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="The workload is RUN's own arrivals and lengths.")
    ] = False,
    ttft_from: Annotated[
        Literal["arrival", "queued"],
        typer.Option(help="What a vLLM log's latencies count from."),
    ] = "arrival",
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LIMIT,…", help="Leave with 1 beyond, e.g. ttft=2,running=0.98."),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option(help="Also with step times ±1 % and KV blocks ±5 %: four runs more.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; runs/NAME-validation if left out.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print validation.json, only that.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
) -> int:
    """Compare a simulation with a measured run, figure by figure and step by step.

    RUN is the folder of `infersim run` or `infersim execute`, a vLLM request log (with its
    timeseries.csv and meta.json beside it), the JSON of `vllm bench serve --save-detailed`, or
    AIPerf's profile_export.jsonl or CSV. `infersim validate my.yaml --replay --against
    requests.jsonl --tolerance ttft=2,tpot=2,e2e=2,running=0.98` leaves with 1 where a limit is
    broken. Limits are in %; of running, kv and tau the least value.
    """
    from ..calibrate.compare import replay as replaying
    from ..calibrate.compare.fitted import refuse_fitted
    from ..calibrate.compare.formats import load as load_run
    from ..calibrate.compare.tolerance import parse
    from ..calibrate.compare.validate import validate as compare
    from ..calibrate.compare.validate import without_drawings
    from ..reports.files import write_text
    from ..reports.metrics import dumps
    from ..reports.validation import render, write_page
    from ..scenarios import grid, load

    limits = parse(tolerance or ())
    runs = [load_run(path, ttft_from) for path in against]
    source = load.read(scenario, set_ or (), seed)
    base = load.check(source.document, source.folders)
    folder = _folder(out or Path("runs") / f"{base.name}-validation")
    if replay:
        source = _replayed(source, folder, [run for one in runs for run in one])
    base, cells = grid.cells(source)
    refuse_fitted(cells, source.folders, against)
    result = compare(
        cells,
        source.folders,
        runs,
        sensitivity=sensitivity,
        tolerances=limits,
        notes=[replaying.NOTE] if replay else [],
        say=(lambda text: None) if quiet else note,
    )
    command = _command(scenario, against, set_, seed, replay, ttft_from, tolerance, sensitivity)
    result = {
        "scenario": base.name,
        "seed": base.seed,
        "infersim": __version__,
        "command": command,
        **result,
    }
    plain = without_drawings(result)
    text = dumps(plain)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RESULT, text)
    if report:
        write_page(folder / PAGE, result, command, __version__)
    if json:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{render(result)}\n\n{folder / (PAGE if report else RESULT)}")
    return OK if all(row["met"] for row in result["checks"]) else FAILED


def _folder(folder: Path) -> Path:
    """*folder*, where nothing but an earlier validation stands.

    Raises:
        InputError: something else does.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder", where="--out")
    ours = {RESULT, PAGE, TRACE}
    if folder.is_dir() and not {path.name for path in folder.iterdir()} <= ours:
        raise InputError(
            f"{folder} holds something that is no validation",
            where="--out",
            help="name a new folder, or one that an earlier validation wrote",
        )
    return folder


def _replayed(source: Source, folder: Path, runs: list[Measured]) -> Source:
    """The scenario with the first run's requests as its workload; repeats must have the same.

    Raises:
        InputError: a run knows no arrivals, or the runs are of different requests.
    """
    from ..calibrate.compare import replay
    from ..calibrate.compare.compare import paired

    first = runs[0]
    for run in runs[1:]:
        if not paired(first.requests, run.requests):
            raise InputError(
                f"{first.name} and {run.name} are of different requests: no one replay fits both",
                where="--replay",
                help="validate them one by one",
            )
    folder.mkdir(parents=True, exist_ok=True)
    replay.write(folder / TRACE, first)
    return replay.replayed(source, folder / TRACE)


def _command(
    scenario: str,
    against: list[Path],
    settings: list[str] | None,
    seed: int | None,
    replay: bool,
    ttft_from: str,
    tolerance: list[str] | None,
    sensitivity: bool,
) -> str:
    """What to type to get the same figures."""
    words = ["infersim", "validate", scenario]
    words += ["--replay"] * replay
    for path in against:
        words += ["--against", str(path)]
    for setting in settings or ():
        words += ["--set", setting]
    if seed is not None:
        words += ["--seed", str(seed)]
    if ttft_from != "arrival":
        words += ["--ttft-from", ttft_from]
    for limit in tolerance or ():
        words += ["--tolerance", limit]
    words += ["--no-sensitivity"] * (not sensitivity)
    return shlex.join(words)
