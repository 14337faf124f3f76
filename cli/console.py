"""Printing: errors in one manner, tables and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..policies.errors import InfersimError


def complain(error: InfersimError) -> None:
    """One error on stderr (each of them, where it holds several)."""
    errors = getattr(error, "errors", (error,))
    for one in errors:
        sys.stderr.write(f"{_red('error')}: {one}\n")
    if left_out := getattr(error, "left_out", 0):
        sys.stderr.write(f"and {left_out} more\n")


def note(text: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(f"{text}\n")


def print_json(data: Any) -> None:
    """*data* on stdout, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: text to the left, numbers to the right, columns two spaces apart."""
    cells = [list(head), *([_text(value) for value in row] for row in rows)]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        sys.stdout.write("  ".join(parts).rstrip() + "\n")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _red(text: str) -> str:
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        return f"\x1b[1;31m{text}\x1b[0m"
    return text
