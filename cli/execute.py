"""``infersim execute``: a scenario on a real model, with the policies of its simulation."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from ..policies.errors import InputError, UnknownNameError
from .codes import OK
from .console import note, print_json
from .output import RunFolder
from .progress import ProgressView

if TYPE_CHECKING:
    from ..scenarios.grid import Cell


class ClockName(StrEnum):
    """Where time comes from."""

    virtual = "virtual"
    wall = "wall"


class Backend(StrEnum):
    """Who computes."""

    torch = "torch"
    triton = "triton"


class Device(StrEnum):
    """On what."""

    cpu = "cpu"
    cuda = "cuda"


def execute(
    scenario: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped scenario.")
    ],
    clock: Annotated[
        ClockName,
        typer.Option(help="virtual: steps last as in the simulation, so decisions are its own."),
    ] = ClockName.virtual,
    backend: Annotated[Backend, typer.Option(help="Plain torch, or our kernels.")] = Backend.torch,
    device: Annotated[Device, typer.Option(help="Where the model is.")] = Device.cpu,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder with safetensors; drawn from the seed if left out."),
    ] = None,
    graphs: Annotated[bool, typer.Option(help="CUDA graphs for decode steps (triton).")] = True,
    cell: Annotated[
        str | None, typer.Option(help="Only this cell of the compare: grid, by name.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Over the scenario's own seed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME-executed-HASH if left out.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print summary.json, only that.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
) -> int:
    """Execute a scenario: the simulator's policies over a real model on one device.

    `infersim execute my.yaml --set cluster.model=tiny --set cluster.kv_blocks=500` runs on a CPU
    in seconds. The folder has the files of `infersim run --trace`; steps.parquet also says what
    each step took on the device and on the host. With --clock virtual its digests are those of
    the simulated run, step by step; with --clock wall steps take the time they take, and
    `infersim validate` compares it with the simulation. Needs torch.
    """
    from ..calibrate.execute import Options, check_installed, execute_cell
    from ..scenarios import build, grid, load, runner

    source = load.read(scenario, set_ or (), seed)
    base, cells = grid.cells(source)
    cells = _chosen(cells, cell)
    options = Options(clock.value, backend.value, device.value, weights, graphs)
    check_installed(options)
    inputs = build.inputs([one.scenario for one in cells], source.folders)
    target = RunFolder.choose(base, inputs, out, kind="-executed")
    begun = perf_counter()
    finished: list[runner.Finished] = []
    times: list[dict[str, float]] = []
    with ProgressView([one.name for one in cells], quiet=quiet) as view:
        for i, one in enumerate(cells):

            def told(now_s: float, ended: int, share: float, i: int = i) -> None:
                view.hear(runner.Tick(i, now_s, ended, share))

            try:
                done = execute_cell(one, source.folders, options, told)
            except InputError as error:
                raise source.located(error) from None
            times.append({"device_s": done.device_s, "copying_s": done.copying_s})
            finished.append(runner.Finished(i, done.records, done.effort, done.effort.wall_s))
            view.hear(finished[-1])
    timing = {
        "wall_s": perf_counter() - begun,
        "clock": clock.value,
        "backend": backend.value,
        "device": device.value,
        "computing": times,
    }
    outcome = runner.Outcome(finished, [], False)
    written = target.write(
        cells, outcome, timing, command=_command(scenario, options, cell, set_, seed), report=report
    )
    if not quiet:
        for ended, spent in zip(finished, times, strict=True):
            moved = spent["copying_s"] / spent["device_s"] if spent["device_s"] else 0.0
            said = f"computed for {spent['device_s']:.3g} s of {ended.wall_s:.3g} s"
            more = f"; moving KV took {moved:.2%} of that" if moved else ""
            note(f"{ended.records.name}: {said}{more}")
    if json:
        print_json(written.summary)
    else:
        typer.echo(f"{written.text}\n\n{written.file}")
    return OK


def _chosen(cells: list[Cell], name: str | None) -> list[Cell]:
    if name is None:
        return cells
    found = [one for one in cells if one.name == name]
    if not found:
        raise UnknownNameError("cell", name, [one.name for one in cells], where="--cell")
    return found


def _command(
    scenario: str, options: object, cell: str | None, settings: list[str] | None, seed: int | None
) -> str:
    """What to type to get the same decisions."""
    words = ["infersim", "execute", scenario]
    for name in ("clock", "backend", "device"):
        words += [f"--{name}", str(getattr(options, name))]
    if cell is not None:
        words += ["--cell", cell]
    for setting in settings or ():
        words += ["--set", setting]
    if seed is not None:
        words += ["--seed", str(seed)]
    return shlex.join(words)
