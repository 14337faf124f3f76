"""``infersim trace``: what a recorded workload holds, and writing it in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..policies.errors import InputError
from .console import note, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Measure a recorded workload, or convert it.")

File = Annotated[Path, typer.Argument(help="A trace, plain or .gz, .xz, .zst.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Its format; recognised by its keys if left out.")
]
BlockSize = Annotated[
    int | None, typer.Option("--block-size", help="Tokens of one block id, if not the usual.")
]


@app.command()
def stats(
    file: File,
    format: Format = None,
    block_size: BlockSize = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rates, lengths, reuse and the ideal hit rate of a trace.

    The ideal is what an endless cache would hit, e.g.
    `infersim trace stats mooncake_conversation_trace.jsonl.gz`.
    """
    from ..scenarios.traces.stats import stats as measured

    found = measured(file, format, block_size).to_dict()
    if json:
        print_json(found)
        return
    for line in found.pop("notes"):
        note(f"note: {line}")
    lengths = {name: found.pop(name) for name in ("input_tokens", "output_tokens")}
    print_table(("", ""), [(name, _shown(value)) for name, value in found.items()])
    typer.echo()
    head = ("", *next(iter(lengths.values())))
    print_table(head, [(name, *row.values()) for name, row in lengths.items()])


@app.command()
def convert(
    file: File,
    to: Annotated[str, typer.Option("--to", help="The format to write.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; .gz, .xz, .zst compress it.")
    ] = None,
    format: Format = None,
    block_size: BlockSize = None,
) -> None:
    """Write a trace in another format; what gets lost is said, what cannot be done is refused.

    `infersim trace convert sessions.jsonl --to mooncake --out mooncake.jsonl.gz`
    """
    from ..scenarios.traces.convert import convert as converted
    from ..scenarios.traces.formats import FORMATS

    suffix = ".csv" if to in FORMATS and FORMATS[to].csv else ".jsonl"
    target = out or Path(f"{file.name.split('.')[0]}.{to}{suffix}")
    if target.exists() and target.samefile(file):
        raise InputError(f"{file} would be written over itself", where="--out")
    for line in converted(file, target, to, format=format, block_size=block_size):
        note(f"note: {line}")
    typer.echo(str(target))


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
