"""Several policies at several capacities: what ``infersim cache`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..traces.load import load
from ..traces.rows import Trace
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
    say: Callable[[str], object] | None = None,
) -> Iterator[Row]:
    """Replay a trace file; everything is checked before this returns.

    Args:
        file: a trace with block ids, plain or compressed.
        evictions: policies as typed, see `names.parse_evictions`.
        capacities: blocks as typed, see `names.parse_capacities`.
        format: the trace's format; None recognises it.
        block_size: tokens of one block id; None for the format's own.
        say: hears what the reader of the rows should know.

    Raises:
        InputError: a policy, capacity or trace that cannot be read.
    """
    named, blocks = parse_evictions(evictions), parse_capacities(capacities)
    trace = load(file, format=format, options=Options(block_size=block_size))
    stream = stream_of(trace)
    if say is not None:
        for caveat in _caveats(trace, stream, named):
            say(caveat)
    return replay_grid(stream, named, blocks)


def _caveats(trace: Trace, stream: Stream, evictions: Sequence[Named]) -> Iterator[str]:
    yield from trace.notes
    if trace.sessions:
        yield "the trace does not say when its sessions start: they are replayed one after another"
    if all(request.tool_time_s < 0 for request, _ in stream.lookups):
        for label, choice in evictions:
            if choice.name == "session-ttl":
                yield f"no session of this trace comes back, so {label} decides as lru"
