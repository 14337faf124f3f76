"""The verbs of ``infersim``. What a verb needs is imported when it runs, so that help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import (
    cache,
    calibrate,
    catalog,
    conform,
    execute,
    run,
    size,
    trace,
    validate,
    validate_cpu,
)

app = typer.Typer(
    name="infersim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich takes longer to import than the help may take
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"infersim {__version__}")
        raise typer.Exit


@app.callback()
def _infersim(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and stop.")
    ] = False,
) -> None:
    """Simulate LLM inference on GPU clusters: what happens if I change this?

    Start with `infersim run agent_loop`: it compares cache evictions and routers on an agent
    workload and writes a report. Then copy a scenario, change it, and run it again.

    Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 a check failed or the run could
    not be carried out, 2 bad input, 3 SLO missed, 130 interrupted.
    """


app.command()(run.run)
app.command()(execute.execute)
app.command()(validate.validate)
app.command()(validate_cpu.validate_cpu)
app.add_typer(calibrate.app, name="calibrate")
app.command()(cache.cache)
app.command()(conform.conform)
app.add_typer(trace.app, name="trace")
app.command()(size.size)
app.command()(catalog.policies)
app.command()(catalog.presets)
app.command()(catalog.models)
app.command()(catalog.gpus)
app.command()(catalog.links)
app.command()(catalog.schema)
