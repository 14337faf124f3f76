"""Vidur's length files: prompt and answer tokens, with arrival times in some.

Source: microsoft/vidur, ``data/processed_traces``.
"""

from __future__ import annotations

from collections.abc import Iterator

from ....policies.errors import InputError
from ..rows import Row, Trace
from ..source import Source
from ..values import InOrder, answer, seconds, tokens
from .base import Format, open_trace


def read(source: Source) -> Trace:
    """Read the lengths; the trace is timed only where it has a column ``arrived_at`` (s)."""
    rows = list(_rows(source))
    timed = bool(rows) and rows[0].at_s is not None
    return open_trace(source, FORMAT.name, rows, timed=timed)


def _rows(source: Source) -> Iterator[Row]:
    in_order = InOrder(source)
    number, limit = 0, source.options.limit
    for line, row in source.csv_rows(FORMAT.required, FORMAT.optional):
        where = source.where(line)
        prompt = tokens(row["num_prefill_tokens"], "num_prefill_tokens", where, least=1)
        answered = tokens(row["num_decode_tokens"], "num_decode_tokens", where)
        if "num_total_tokens" in row:
            total = tokens(row["num_total_tokens"], "num_total_tokens", where)
            if total != prompt + answered:
                raise InputError(
                    f"num_total_tokens is {total}, the parts sum to {prompt + answered}",
                    where=where,
                )
        if "pd_ratio" in row:
            seconds(row["pd_ratio"], "pd_ratio", where)
        at_s = None
        if "arrived_at" in row:
            at_s = in_order.check(seconds(row["arrived_at"], "arrived_at", where), line)
        out = answer(source, answered, "num_decode_tokens", line)
        if out is not None:
            yield Row(number, line, prompt, out, at_s)
            number += 1
            if number == limit:
                return


FORMAT = Format(
    "vidur",
    "CSV: num_prefill_tokens, num_decode_tokens, optionally arrived_at (s)",
    frozenset({"num_prefill_tokens", "num_decode_tokens"}),
    frozenset({"num_total_tokens", "pd_ratio", "arrived_at"}),
    read,
    csv=True,
)
