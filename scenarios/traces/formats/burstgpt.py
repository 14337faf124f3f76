"""BurstGPT: ChatGPT and GPT-4 requests of a campus, with seconds, models and sessions.

A row without request tokens is a failure that the service logged: it cannot be served, so it is
dropped and counted. Source: HPMLL/BurstGPT (release 2 adds Session ID and Elapsed time).
"""

from __future__ import annotations

from collections.abc import Iterator

from ....policies.errors import InputError
from ..rows import Row, Trace
from ..source import Source
from ..values import InOrder, answer, seconds, tokens
from .base import Format, open_trace


def read(source: Source) -> Trace:
    """Read the trace; conversation rows of release 2 carry their session."""
    return open_trace(source, FORMAT.name, _rows(source))


def _rows(source: Source) -> Iterator[Row]:
    in_order = InOrder(source)
    sessions: dict[str, int] = {}
    last: dict[int, tuple[int, float]] = {}  # session -> turns so far, time of the last
    number = 0
    for line, row in source.csv_rows(FORMAT.required, FORMAT.optional):
        where = source.where(line)
        at_s = in_order.check(seconds(row["Timestamp"], "Timestamp", where), line)
        prompt = tokens(row["Request tokens"], "Request tokens", where)
        answered = tokens(row["Response tokens"], "Response tokens", where)
        if "Total tokens" in row:
            _check_total(row["Total tokens"], prompt + answered, where)
        if row.get("Elapsed time"):
            seconds(row["Elapsed time"], "Elapsed time", where)
        if prompt == 0:
            source.count("no request tokens (a failure the service logged); dropped")
            continue
        out = answer(source, answered, "Response tokens", line)
        if out is None:
            continue
        name = row.get("Session ID", "").strip()
        session = sessions.setdefault(name, len(sessions)) if name else -1
        turn, before = last.get(session, (0, at_s)) if name else (0, at_s)
        last[session] = (turn + 1, at_s)
        yield Row(
            number,
            line,
            prompt,
            out,
            at_s,
            model=str(row["Model"]),
            kind=str(row.get("Log Type", "")),
            session=session,
            turn=turn,
            gap_s=at_s - before if turn else None,
        )
        number += 1


def _check_total(value: str, expected: int, where: str) -> None:
    total = tokens(value, "Total tokens", where)
    if total != expected:
        raise InputError(
            f"Total tokens is {total}, request and response tokens sum to {expected}", where=where
        )


FORMAT = Format(
    "burstgpt",
    "CSV: Timestamp (s), Model, Request tokens, Response tokens, …",
    frozenset({"Timestamp", "Model", "Request tokens", "Response tokens"}),
    frozenset({"Total tokens", "Log Type", "Session ID", "Elapsed time"}),
    read,
    csv=True,
)
