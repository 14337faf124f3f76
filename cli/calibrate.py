"""``infersim calibrate``: step times measured, imported, checked, or fitted to a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..policies.errors import InputError
from .calibrating import CalibrationView
from .codes import FAILED, OK, InterruptedByUserError
from .console import note, print_json, print_table

if TYPE_CHECKING:
    from ..sim.cost.profile import Profile

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path | None, typer.Option("--out", help="Directory of the profile.")]


@app.callback()
def calibrate(
    ctx: typer.Context,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure the GPU of this machine.")] = False,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Try the same pipeline on the CPU, with a tiny model.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Name or YAML file; tiny with --cpu if left out.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Weights: auto is as published.")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="KV cache: auto is bf16.")] = "auto",
    tp: Annotated[int, typer.Option(help="Measure one GPU's share of a replica of so many.")] = 1,
    minutes: Annotated[
        float, typer.Option(help="Stop after this long; what matters most comes first.")
    ] = 8.0,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Longest step; 8192, or 256 with --cpu.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="Largest batch; 256, or 32 with --cpu.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of torch with --cpu; what torch takes if left out.")
    ] = None,
    device_name: Annotated[
        str | None,
        typer.Option(help="The GPU in the catalogue or a YAML file, where it is not recognised."),
    ] = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> int | None:
    """Measure the operations of a model on this device and write a profile.

    `infersim calibrate --gpu --model llama-3.1-8b --out profiles/llama-8b-h100` takes a few
    minutes; Ctrl-C keeps what is measured and the same command goes on. A scenario uses it with
    `cluster.profile: profiles/llama-8b-h100`. `infersim calibrate --cpu --out profiles/tiny` tries
    all of it in half a minute. Needs torch.
    """
    if ctx.invoked_subcommand is not None:
        return None
    from ..calibrate.session import Request
    from ..calibrate.session import calibrate as measure

    if gpu == cpu:
        raise InputError("either --gpu or --cpu", where="infersim calibrate")
    name = model or ("tiny" if cpu else None)
    if name is None:
        raise InputError("--gpu needs --model", help="`infersim models` lists them")
    request = Request(
        "cpu" if cpu else "cuda",
        name,
        _needed(out),
        minutes,
        dtype=dtype,
        kv_dtype=kv_dtype,
        tp=tp,
        budget=max_num_batched_tokens,
        max_seqs=max_num_seqs,
        device_name=device_name,
        threads=threads,
        version=__version__,
    )
    with CalibrationView(minutes, quiet=quiet) as view:
        done = measure(request, view.hear)
    for warning in done.warnings:
        note(f"warning: {warning}")
    if done.assembled is not None:
        _say(done.assembled.profile)
        typer.echo(str(request.out))
    if done.outcome.stopped == "interrupted":
        raise InterruptedByUserError(
            "interrupted; what is measured is kept, and the same command goes on"
        )
    return OK if done.assembled is not None else FAILED


@app.command("import")
def import_(
    format: Annotated[
        str, typer.Argument(metavar="FORMAT", help="llmservingsim, aiconfigurator or silicon.")
    ],
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Its tables; for silicon its name of the model.")
    ],
    model: Annotated[str, typer.Option(help="Name in the catalogue, or a YAML file.")],
    gpu: Annotated[str, typer.Option(help="Name in the catalogue, or a YAML file.")],
    tp: Annotated[int, typer.Option(help="Tensor-parallel GPUs of a replica.")] = 1,
    ep: Annotated[int | None, typer.Option(help="Groups of GPUs that share the experts.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Weights: auto is as published.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="KV cache: auto is bf16.")] = None,
    engine: Annotated[str | None, typer.Option(help="Whose kernels, e.g. vllm.")] = None,
    version: Annotated[str | None, typer.Option(help="Of the engine, e.g. 0.24.0.")] = None,
    collectives: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="aiconfigurator's, whose all-reduces complete a bundle."),
    ] = None,
    out: Out = None,
) -> int:
    """Make a profile of kernel tables that others have measured.

    `infersim calibrate import aiconfigurator systems/data --model qwen3-32b --gpu h100 --tp 2
    --out profiles/qwen3-32b-h100`. What the tables lack is filled from the roofline, and said.
    """
    from ..calibrate.importing import import_profile
    from ..sim.cost.profile import save

    target = _needed(out)
    given = {"ep": ep, "dtype": dtype, "kv_dtype": kv_dtype, "engine": engine, "version": version}
    given |= {"collectives": collectives}
    options = {name: value for name, value in given.items() if value is not None}
    profile = import_profile(format, path, model=model, gpu=gpu, tp=tp, **options)
    save(profile, target)
    _say(profile)
    typer.echo(str(target))
    return OK


@app.command()
def check(
    profile: Annotated[Path, typer.Argument(help="Directory of a profile.")],
    html: Annotated[
        Path | None, typer.Option("--html", help="Also draw it: one HTML file.")
    ] = None,
    json: Json = False,
) -> int:
    """Say what a profile covers and how far it can be trusted.

    By operation: points and grades of the table, points whose samples scatter (CV above 5 %), the
    error of points foretold without them, and how uneven batches compare. These come from the raw
    samples; an imported profile has none. Leaves with 2 for a file that is damaged.
    """
    from ..calibrate.checking import checked

    found = checked(profile, __version__)
    for warning in found.warnings:
        note(f"warning: {warning}")
    if html is not None:
        from ..reports.profile import write_page

        write_page(html, found.page_data(), f"infersim calibrate check {profile} --html {html}")
    if json:
        print_json(found.plain())
        return OK
    from ..reports.profile import HEADS, row

    typer.echo(found.profile.name)
    for name, text in found.facts().items():
        typer.echo(f"  {name + ':':<19}{text}")
    typer.echo()
    print_table(HEADS, [row(one) for one in found.rows()])
    for text in found.profile.notes:
        typer.echo(f"note: {text}")
    if html is not None:
        typer.echo(str(html))
    return OK


@app.command()
def fit(
    run: Annotated[
        Path, typer.Option("--from", metavar="LOG", help="An engine's log, or a run's folder.")
    ],
    scenario: Annotated[str, typer.Option(help="The scenario of that run: a file or a name.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key; may be repeated."),
    ] = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json: Json = False,
) -> int:
    """Fit host terms, a scale for each family of operations and the KV capacity to a run.

    LOG is a vLLM log with --enable-logging-iteration-details, an SGLang server log, the folder of
    `infersim execute --clock wall`, a vLLM request log or a detailed bench JSON. It starts from
    the profile of the scenario, else from the datasheet, says what the run does not identify, and
    names the run in the profile, so that no score counts it.
    """
    from ..calibrate.identify.fit import fit as fitted
    from ..scenarios import load
    from ..sim.cost.profile import save

    target = _needed(out)
    source = load.read(scenario, set_ or (), None)
    found = fitted(run, source, __version__, (lambda text: None) if quiet else note)
    save(found.profile, target)
    if json:
        print_json(found.plain())
        return OK
    _say(found.profile)
    typer.echo(str(target))
    return OK


def _needed(out: Path | None) -> Path:
    if out is None:
        raise InputError("--out is missing: the directory of the profile", where="--out")
    return out


def _say(profile: Profile) -> None:
    """What an import or a fit gave, in a few lines."""
    points = sum(len(table.points) for table in profile.tables)
    typer.echo(f"{profile.name}: {len(profile.tables)} tables, {points:,} points")
    if profile.missing:
        typer.echo(f"filled from the roofline: {', '.join(profile.missing)}")
    for text in profile.notes:
        typer.echo(f"note: {text}")
