"""A trace file being read: its rows as checked values, its options, and the notes it gathers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...policies.errors import InputError, UnknownNameError
from . import idlists
from .compressed import read_lines


class Cell(str):
    """Text of a CSV cell, which may spell a number; text in JSON may not."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Options:
    """How to read a trace.

    Attributes:
        block_size: tokens of one block id; None for the format's own.
        limit: stop after this many requests (sessions, where the file holds sessions).
        zero_output: a row whose answer has no tokens is kept as one token, dropped, or refused.
        allow_unknown: note unknown columns instead of refusing them.
        characters_per_token: for formats that hold text, since there is no tokenizer.
    """

    block_size: int | None = None
    limit: int | None = None
    zero_output: Literal["keep", "drop", "refuse"] = "keep"
    allow_unknown: bool = False
    characters_per_token: float = 4.0


@dataclass(slots=True)
class Source:
    """One file with its options; loaders pull rows from it and count oddities in it."""

    path: Path
    options: Options
    _counts: dict[str, int] = field(default_factory=dict)

    def where(self, line: int) -> str:
        """``file:line``, as errors show it."""
        return f"{self.path}:{line}"

    def count(self, note: str) -> None:
        """Count one more row to which *note* applies."""
        self._counts[note] = self._counts.get(note, 0) + 1

    def notes(self) -> tuple[str, ...]:
        """What was counted, as sentences."""
        return tuple(f"{n:,} {'row' if n == 1 else 'rows'}: {t}" for t, n in self._counts.items())

    def lines(self) -> Iterator[tuple[int, str, bool]]:
        """Yield (number, text, whether the line is ended); blank lines may only end the file."""
        blank = 0
        for number, raw in read_lines(self.path):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"not UTF-8 text: {error}", where=self.where(number)) from error
            if not text.strip():
                blank = blank or number
                continue
            if blank:
                raise InputError("a blank line within the trace", where=self.where(blank))
            yield number, text, text.endswith("\n")
        if blank == 1:
            raise InputError("the file holds nothing but blank lines", where=str(self.path))

    def json_rows(
        self, required: frozenset[str], optional: frozenset[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """One JSON object a line, with every required key and no unknown one."""
        known, seen = required | optional, frozenset[str]()
        for number, text, ended in self.lines():
            row = self.parse(text, number, ended)
            if not isinstance(row, dict):
                raise InputError(
                    f"a row must be a JSON object, found {type(row).__name__}",
                    where=self.where(number),
                )
            keys = frozenset(row)
            if keys != seen:
                self.check_keys(keys, required, known, number)
                seen = keys
            yield number, row

    def parse(self, text: str, line: int, ended: bool = True) -> Any:
        """JSON, without the NaN and Infinity that Python would accept; see `idlists`."""
        try:
            try:
                return idlists.loads(text, _refuse_constant)
            except ValueError:
                return json.loads(text, parse_constant=_refuse_constant)  # errors in its own words
        except RecursionError as error:
            raise InputError("JSON nested too deeply", where=self.where(line)) from error
        except ValueError as error:
            at = line + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else line
            what = "bad JSON" if ended else "the file is cut off within a row, or bad JSON"
            raise InputError(f"{what}: {error}", where=self.where(at)) from error

    def csv_rows(
        self, required: frozenset[str], optional: frozenset[str]
    ) -> Iterator[tuple[int, dict[str, Cell]]]:
        """Rows of a CSV file with a header, as text by column."""
        lines = self.lines()
        first, text, _ = next(lines)
        header = [name.strip() for name in text.rstrip("\r\n").split(",")]
        self.check_keys(frozenset(header), required, required | optional, first)
        if len(set(header)) != len(header):
            raise InputError("a column appears twice", where=self.where(first))
        for number, text, ended in lines:
            try:
                cells = next(csv.reader([text], strict=True), [])
            except csv.Error as error:
                raise InputError(f"bad CSV: {error}", where=self.where(number)) from error
            if len(cells) != len(header):
                what = f"{len(cells)} columns, the header has {len(header)}"
                if not ended:
                    what += "; the file is cut off within a row"
                raise InputError(what, where=self.where(number))
            yield number, dict(zip(header, map(Cell, cells), strict=True))

    def check_keys(
        self, keys: frozenset[str], required: frozenset[str], known: frozenset[str], line: int
    ) -> None:
        """Refuse missing keys, and unknown ones unless they are allowed (then they are noted)."""
        missing = sorted(required - keys)
        if missing:
            raise InputError(f"no column {', '.join(missing)}", where=self.where(line))
        for name in sorted(key.encode(errors="backslashreplace").decode() for key in keys - known):
            if not self.options.allow_unknown:
                raise UnknownNameError("column", name, known, where=self.where(line))
            self.count(f'the unknown column "{name}" is ignored (from line {line} on)')


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
