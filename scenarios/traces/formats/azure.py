"""Azure's LLM inference traces of 2023 and 2024: dates and token counts.

Source: Azure/AzurePublicDataset (Splitwise, ISCA'24; DynamoLLM, HPCA'25). The 2024 files have the
same columns and write a zone after the date.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..rows import Row, Trace
from ..source import Source
from ..values import InOrder, answer, date_ns, tokens
from .base import Format, open_trace


def read(source: Source) -> Trace:
    """Read the trace; its zero is the first row's date."""
    return open_trace(source, FORMAT.name, _rows(source))


def _rows(source: Source) -> Iterator[Row]:
    in_order = InOrder(source)
    zero: int | None = None
    number = 0
    for line, row in source.csv_rows(FORMAT.required, FORMAT.optional):
        where = source.where(line)
        date = date_ns(row["TIMESTAMP"], "TIMESTAMP", where)
        zero = date if zero is None else zero
        at_s = (date - zero) / 1e9
        in_order.check(at_s, line)
        prompt = tokens(row["ContextTokens"], "ContextTokens", where, least=1)
        out = answer(source, row["GeneratedTokens"], "GeneratedTokens", line)
        if out is not None:
            yield Row(number, line, prompt, out, at_s)
            number += 1


FORMAT = Format(
    "azure",
    "CSV: TIMESTAMP, ContextTokens, GeneratedTokens (2023 and 2024)",
    frozenset({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}),
    frozenset(),
    read,
    csv=True,
)
