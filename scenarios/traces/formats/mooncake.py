"""Mooncake: arrivals in ms, lengths, cumulative prefix hashes of 512-token blocks.

Source: kvcache-ai/Mooncake, FAST'25 release (conversation, toolagent and synthetic traces).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..rows import Row, Trace
from ..runs import check_cover, runs_of
from ..source import Source
from ..values import InOrder, answer, seconds, tokens
from .base import Format, open_trace

BLOCK_SIZE = 512


def read(source: Source) -> Trace:
    """Read the trace; ids cover prompts only, the last block may be partial."""
    block_size = source.options.block_size or BLOCK_SIZE
    return open_trace(source, FORMAT.name, _rows(source, block_size), block_size=block_size)


def _rows(source: Source, block_size: int) -> Iterator[Row]:
    in_order = InOrder(source)
    number = 0
    for line, row in source.json_rows(FORMAT.required, FORMAT.optional):
        where = source.where(line)
        at_s = seconds(row["timestamp"], "timestamp", where, scale=1e-3)
        prompt = tokens(row["input_length"], "input_length", where, least=1)
        runs = runs_of(row["hash_ids"], where)
        check_cover(runs, prompt, block_size, where)
        in_order.check(at_s, line)
        out = answer(source, row["output_length"], "output_length", line)
        if out is not None:
            yield Row(number, line, prompt, out, at_s, runs)
            number += 1


FORMAT = Format(
    "mooncake",
    "timestamp (ms), input_length, output_length, hash_ids of 512-token blocks",
    frozenset({"timestamp", "input_length", "output_length", "hash_ids"}),
    frozenset(),
    read,
)
