"""LLMServingSim's requests: arrivals in ns and, optionally, every token id.

Token ids make sharing exact: equal beginnings become equal block ids of one token each.
Source: casys-kaist/LLMServingSim.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....policies.errors import InputError
from ..rows import Row, Run, Trace
from ..runs import cut
from ..source import Source
from ..values import InOrder, answer, seconds, tokens
from .base import Format, open_trace


def read(source: Source) -> Trace:
    """Read the trace. `Trace.block_size` is 1 where it has token ids, 0 where it has none."""
    rows = list(_rows(source))
    block_size = 1 if any(row.runs for row in rows) else 0
    return open_trace(source, FORMAT.name, rows, block_size=block_size)


def _rows(source: Source) -> Iterator[Row]:
    in_order = InOrder(source)
    prefixes = _Prefixes()
    number, limit = 0, source.options.limit
    for line, row in source.json_rows(FORMAT.required, FORMAT.optional):
        where = source.where(line)
        arrival = seconds(row["arrival_time_ns"], "arrival_time_ns", where, scale=1e-9)
        at_s = in_order.check(arrival, line)
        prompt = tokens(row["input_toks"], "input_toks", where, least=1)
        runs: tuple[Run, ...] = ()
        if "input_tok_ids" in row:
            runs = prefixes.runs(_ids(row["input_tok_ids"], prompt, "input_tok_ids", where))
        answered = tokens(row["output_toks"], "output_toks", where)
        if "output_tok_ids" in row:
            _ids(row["output_tok_ids"], answered, "output_tok_ids", where)
        out = answer(source, answered, "output_toks", line)
        if out is not None:
            yield Row(number, line, prompt, out, at_s, runs)
            number += 1
            if number == limit:
                return


def _ids(value: Any, count: int, key: str, where: str) -> list[int]:
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise InputError(f"{key} must be a list of integers", where=where)
    if len(value) != count:
        raise InputError(f"{key} holds {len(value)} ids for {count} tokens", where=where)
    return value


class _Prefixes:
    """Numbers every distinct beginning of a prompt; new ones get consecutive numbers."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], int] = {}

    def runs(self, token_ids: list[int]) -> tuple[Run, ...]:
        """The prompt as runs of prefix numbers."""
        at, numbers, known = -1, [], self._ids
        for token in token_ids:
            at = known.setdefault((at, token), len(known))
            numbers.append(at)
        return cut(numbers)


FORMAT = Format(
    "llmservingsim",
    "input_toks, output_toks, arrival_time_ns, input_tok_ids, output_tok_ids",
    frozenset({"input_toks", "output_toks", "arrival_time_ns"}),
    frozenset({"input_tok_ids", "output_tok_ids"}),
    read,
)
