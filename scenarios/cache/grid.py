"""Several policies at several capacities: what ``infersim cache`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..traces.load import load
from ..traces.source import Options
from .names import Named, parse_capacities, parse_evictions
from .replay import Row, replay
from .stream import Stream, stream_of


def replay_grid(
    stream: Stream, evictions: Sequence[Named], capacities: Sequence[float]
) -> Iterator[Row]:
    """One row a policy and capacity, policies first, each as soon as it is done."""
    for label, choice in evictions:
        for capacity in capacities:
            yield replay(stream, choice.build(), capacity, name=label)


def replay_trace(
    file: str | Path,
    evictions: str,
    capacities: str,
    *,
    format: str | None = None,
    block_size: int | None = None,
) -> Iterator[Row]:
    """Replay a trace file; everything is checked before this returns.

    Args:
        file: a trace with block ids, plain or compressed.
        evictions: policies as typed, see `names.parse_evictions`.
        capacities: blocks as typed, see `names.parse_capacities`.
        format: the trace's format; None recognises it.
        block_size: tokens of one block id; None for the format's own.

    Raises:
        InputError: a policy, capacity or trace that cannot be read.
    """
    named, blocks = parse_evictions(evictions), parse_capacities(capacities)
    trace = load(file, format=format, options=Options(block_size=block_size))
    return replay_grid(stream_of(trace), named, blocks)
