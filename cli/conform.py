"""``infersim conform``: our decisions against recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .codes import FAILED, OK


def conform(
    files: Annotated[list[Path], typer.Argument(help="Recorded cases, JSON.")],
) -> int:
    """Replay decisions recorded from a real engine, and say the first difference.

    `infersim conform tests/golden/vllm/*.json` replays them through the objects that the
    simulator uses; there is no second implementation. The last line is "N passed, M failed";
    exit code 1 where any failed.
    """
    from ..scenarios.conform.replay import conform as compared

    failed = 0
    for file in files:
        verdict = compared(file)
        failed += bool(verdict.difference)
        typer.echo(f"{verdict.name}: {verdict.difference or f'{verdict.steps} steps agree'}")
    typer.echo(f"{len(files) - failed} passed, {failed} failed")
    return FAILED if failed else OK
