"""Numbers out of a file: a column of a trace, of a CSV file, or a list."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from ...policies.errors import InputError, UnknownNameError
from ..traces.compressed import read_lines
from ..traces.load import load


def column(path: Path, name: str) -> tuple[float, ...]:
    """The numbers of column *name*: not negative, at least one.

    "input" and "output" are the token counts of a trace in any known format; a file of one
    number a line has just one column, whatever the name.

    Raises:
        InputError: with file and line, for whatever is wrong.
    """
    first = next(read_lines(path))[1].strip()
    if _number(first) is not None:
        return tuple(_column(path, None))
    if name in ("input", "output") and name.encode() not in first.split(b","):
        rows = load(path).requests()
        return tuple(float(r.input_tokens if name == "input" else r.output_tokens) for r in rows)
    return tuple(_column(path, name))


def pairs(path: Path) -> tuple[tuple[int, int], ...]:
    """(prompt tokens, answer tokens) of every request of a trace in any known format."""
    return tuple((row.input_tokens, row.output_tokens) for row in load(path).requests())


def _column(path: Path, name: str | None) -> list[float]:
    values, at = [], 0
    for line, raw in read_lines(path):
        where = f"{path}:{line}"
        try:
            cells = next(csv.reader([raw.decode()], strict=True), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"not a row of text: {error}", where=where) from error
        if line == 1 and name is not None:
            header = [cell.strip() for cell in cells]
            if name not in header:
                raise UnknownNameError("column", name, header, where=where)
            at = header.index(name)
            continue
        value = _number(cells[at].encode()) if at < len(cells) else None
        if value is None:
            raise InputError("a number, 0 or more, is missing here", where=where)
        values.append(value)
    if not values:
        raise InputError("the file holds no numbers", where=str(path))
    return values


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1e9 else None
