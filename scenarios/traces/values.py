"""Checked values of a row: counts of tokens, seconds in order, dates."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from ...policies.errors import InputError
from .source import Cell, Source

MAX_TOKENS = 100_000_000  #: more than any context; a larger number is in the wrong column
MAX_SECONDS = 1e11
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII
)


def tokens(value: Any, name: str, where: str, *, least: int = 0) -> int:
    """A count of tokens, from JSON or CSV: *least* or more.

    Raises:
        InputError: not a whole number, or out of range.
    """
    number = value
    if isinstance(value, Cell):
        try:
            number = float(value) if not value.isascii() or not value.isdigit() else int(value[:20])
        except ValueError:
            number = None
    if isinstance(number, float) and math.isfinite(number) and number == int(number):
        number = int(number)
    if type(number) is not int:
        raise InputError(f"{name} must be a whole number, found {_short(value)}", where=where)
    if not least <= number <= MAX_TOKENS:
        raise InputError(
            f"{name} must lie in {least} .. {MAX_TOKENS:,}, found {_short(value)}", where=where
        )
    return number


def answer(source: Source, value: Any, name: str, line: int) -> int | None:
    """Tokens of an answer. None answered: kept as 1, dropped (None) or refused, by option."""
    count = tokens(value, name, source.where(line))
    if count > 0:
        return count
    rule = source.options.zero_output
    if rule == "refuse":
        raise InputError(f"{name} is 0 and zero_output is refuse", where=source.where(line))
    source.count(
        "no answer tokens; kept with 1 (zero_output: keep)"
        if rule == "keep"
        else "no answer tokens; dropped (zero_output: drop)"
    )
    return 1 if rule == "keep" else None


def seconds(value: Any, name: str, where: str, *, scale: float = 1.0) -> float:
    """A time or duration times *scale*: a finite number, 0 to 10^11 (s; about 3,000 years)."""
    number = value
    if isinstance(value, Cell):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{name} must be a number, found {_short(value)}", where=where)
    if not 0 <= number < MAX_SECONDS / scale:  # also false for NaN
        raise InputError(f"{name} must be finite and 0 or more, found {_short(value)}", where=where)
    return number * scale


def integer(value: Any, name: str, where: str) -> int:
    """A whole number of either sign, for identities."""
    if type(value) is not int or abs(value) > 1 << 62:
        raise InputError(f"{name} must be a whole number, found {_short(value)}", where=where)
    return value


def text(value: Any, name: str, where: str) -> str:
    """A string that can be written as UTF-8."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise InputError(f"{name} must be text, found {_short(value)}", where=where)


def date_ns(value: str, name: str, where: str) -> int:
    """Nanoseconds since 1970 of ``2023-11-16 18:17:03.9799600``, with or without a zone."""
    match = _DATE.fullmatch(value.strip())
    if match is None:
        raise InputError(
            f"{name} must be a date like 2023-11-16 18:17:03.97996, found {_short(value)}",
            where=where,
        )
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=_zone(zone))
    except ValueError as error:
        raise InputError(f"{name}: {error}", where=where) from error
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    whole = (since.days * 86_400 + since.seconds) * 10**9
    return whole + int((fraction or "0").ljust(9, "0"))


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == "-" else offset)


class InOrder:
    """Checks that times never step back."""

    def __init__(self, source: Source) -> None:
        self._source, self._last = source, 0.0

    def check(self, at_s: float, line: int) -> float:
        """Hand *at_s* back.

        Raises:
            InputError: it lies before the row above.
        """
        if at_s < self._last:
            raise InputError(
                f"out of order: {at_s:.6g} s comes after {self._last:.6g} s",
                where=self._source.where(line),
                help="rows must be sorted by time",
            )
        self._last = at_s
        return at_s


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
