"""A trace format: how it is recognised and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from ....policies.errors import InputError
from ..rows import Row, Session, Trace
from ..source import Source


@dataclass(frozen=True, slots=True)
class Format:
    """One supported format.

    Attributes:
        name: as typed in ``format:`` and ``--format``.
        summary: one line for listings.
        required: keys or columns that every row has; the format is recognised by them.
        optional: further keys or columns it may have.
        read: reads a whole source.
        csv: a table with a header rather than one JSON object a line.
    """

    name: str
    summary: str
    required: frozenset[str]
    optional: frozenset[str]
    read: Callable[[Source], Trace]
    csv: bool = False


def open_trace(
    source: Source,
    format_name: str,
    rows: Iterable[Row],
    *,
    block_size: int = 0,
    timed: bool = True,
) -> Trace:
    """A trace of rows, as many as the limit allows.

    Raises:
        InputError: there are none.
    """
    kept = tuple(islice(rows, source.options.limit))
    if not kept:
        raise InputError("the trace holds no requests", where=str(source.path))
    return Trace(str(source.path), format_name, block_size, kept, (), timed, tuple(source.notes()))


def session_trace(
    source: Source, format_name: str, sessions: Iterable[Session], *, block_size: int = 0
) -> Trace:
    """A trace of closed-loop sessions, as many as the limit allows.

    Raises:
        InputError: there are none.
    """
    kept = tuple(islice(sessions, source.options.limit))
    if not kept:
        raise InputError("the trace holds no sessions", where=str(source.path))
    return Trace(str(source.path), format_name, block_size, (), kept, False, tuple(source.notes()))
