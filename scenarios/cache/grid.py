"""Several policies at several capacities: what ``infersim cache`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...policies.errors import InputError
from ..traces.load import load
from ..traces.rows import Trace
from ..traces.source import Options
from .names import (
    BLOCK_TOKENS,
    Named,
    parse_capacities,
    parse_evictions,
    parse_routings,
    parse_tokens,
)
from .replay import Row, replay
from .stream import Stream, stream_of
from .study import Study, Subject, check_block_tokens
from .visits import visits_of


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


def read_study(
    files: Sequence[str | Path],
    evictions: str,
    routings: str,
    kv_tokens: str,
    block_tokens: str | None = None,
    *,
    replicas: int = 8,
    in_flight: int = 64,
    session_every_s: float = 60.0,
    format: str | None = None,
    block_size: int | None = None,
    say: Callable[[str], object] = lambda caveat: None,
) -> Study:
    """What is to be compared, read and checked.

    Args:
        files: traces with block ids.
        evictions, routings, kv_tokens: as typed, see `names`.
        block_tokens: tokens in a block of the caches, one number or one a trace; None for the
            traces' own.
        replicas, in_flight: see `Study`.
        session_every_s: how far apart sessions start, where the trace does not say when.
        format, block_size: see `replay_trace`.
        say: hears what the reader of the results should know.

    Raises:
        InputError: whatever is wrong with any of them.
    """
    named, routers = parse_evictions(evictions), parse_routings(routings)
    sizes = parse_tokens(kv_tokens)
    blocks = parse_tokens(block_tokens, BLOCK_TOKENS) if block_tokens else []
    if len(blocks) not in (0, 1, len(files)):
        raise InputError(
            f"{len(blocks)} sizes of a block for {len(files)} traces",
            where=BLOCK_TOKENS,
            help="one number, or one a trace",
        )
    subjects = []
    for number, file in enumerate(files):
        trace = load(file, format=format, options=Options(block_size=block_size))
        visits = visits_of(trace, session_every_s, name=Path(file).name.partition(".")[0])
        own = trace.block_size
        size = check_block_tokens(blocks[number % len(blocks)], own) if blocks else own
        subjects.append(Subject(visits, size, own))
        for text in trace.notes:
            say(text)
        if trace.sessions:
            say(f"{Path(file).name}: sessions start every {session_every_s:g} s (it does not say)")
    study = Study(subjects, named, routers, sizes, replicas, in_flight)
    study.cells()
    return study
