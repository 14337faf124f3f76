"""What a cache is asked for: the blocks of every request of a trace, in file order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import NamedTuple, TypeAlias

from ...policies.errors import InputError
from ...policies.eviction.future import NextUse, RecordedUses
from ...policies.types import PS_PER_S, Request
from ..traces.rows import Row, Run, Trace


class Blocks:
    """Block identities kept as runs of consecutive ones."""

    __slots__ = ("_runs",)

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self._runs = runs

    def __len__(self) -> int:
        return sum(blocks for _, blocks in self._runs)

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(first, first + n) for first, n in self._runs)


class Lookup(NamedTuple):
    """One request and its blocks, first to last."""

    request: Request
    blocks: Blocks | Sequence[int]


@dataclass(frozen=True)
class Stream:
    """Look-ups in file order; `Request.id` counts them from 0.

    Attributes:
        block_size: tokens in a block.
    """

    lookups: Sequence[Lookup]
    block_size: int = 1

    @cached_property
    def references(self) -> int:
        """Blocks asked for, over all requests."""
        return sum(len(blocks) for _, blocks in self.lookups)

    @cached_property
    def future(self) -> NextUse:
        """What an oracle is told."""
        return RecordedUses(blocks for _, blocks in self.lookups)


def stream_of(trace: Trace) -> Stream:
    """The look-ups of a trace whose prompts are block ids.

    KV is never shared across scopes or models. Requests carry times and sessions but no text.
    Sessions of a closed-loop trace follow one another, since it does not say when they start.
    `tool_time_s` is how long after a request its session (or sub-agent) really asks again: a
    client that predicts exactly.

    Raises:
        InputError: the trace, or one of its rows, has no block ids.
    """
    if not trace.block_size:
        raise InputError(
            f"a trace in the format {trace.format} has no block ids, so no cache can be replayed",
            where=trace.file,
            help="formats with hash_ids have them, e.g. mooncake, bailian, lmcache, claude-code",
        )
    moments = list(moments_of(trace))
    spaces = _Spaces(row for row, _, _ in moments)
    away_s = away_of(moments)
    lookups = []
    for number, (row, at_s, _) in enumerate(moments):
        if not row.runs and row.input_tokens >= trace.block_size:
            raise InputError("a row without block ids", where=f"{trace.file}:{row.line}")
        request = Request(
            id=number,
            arrival_ps=round(at_s * PS_PER_S),
            prompt=(),
            prompt_tokens=row.input_tokens,
            max_tokens=0,
            output_content=-1,
            session=row.session,
            turn=row.turn,
            kind=row.kind,
            model=row.model,
            tool_time_s=away_s[number],
        )
        lookups.append(Lookup(request, Blocks(spaces.runs(row))))
    return Stream(lookups, trace.block_size)


class _Spaces:
    """Gives every (scope, model) block identities of its own, small where the ids are."""

    def __init__(self, rows: Iterable[Row]) -> None:
        ends: dict[tuple[str, str], int] = {}
        for row in rows:
            space = (row.scope, row.model)
            last = max((first + n for first, n in row.runs), default=0)
            ends[space] = max(ends.get(space, 0), last)
        self._starts = dict(zip(ends, accumulate(ends.values(), initial=0), strict=False))

    def runs(self, row: Row) -> tuple[Run, ...]:
        start = self._starts[row.scope, row.model]
        return tuple((start + first, n) for first, n in row.runs) if start else row.runs


#: a request, when it is made, and the line of requests that it continues (None: none)
Moment: TypeAlias = tuple[Row, float, tuple[int, ...] | None]


def moments_of(trace: Trace, session_every_s: float | None = None) -> Iterator[Moment]:
    """The requests of a trace, each with its time.

    Sessions of a closed-loop trace start *session_every_s* apart; None: when the last one ended.
    """
    for row in trace.rows:
        yield row, row.at_s or 0.0, None if row.session < 0 else (row.session,)
    clock_s = 0.0
    for place, session in enumerate(trace.sessions):
        start_s = clock_s = clock_s if session_every_s is None else place * session_every_s
        for number, step in enumerate(session.steps):
            if isinstance(step, Row):
                clock_s = max(clock_s, start_s + (step.at_s or 0.0))
                yield step, clock_s, (session.number,)
                continue
            fork_s = clock_s
            for branch_number, branch in enumerate(step.branches):
                for row in branch.rows:
                    at_s = fork_s + branch.delay_s + (row.at_s or 0.0)
                    clock_s = max(clock_s, at_s)
                    yield row, clock_s, (session.number, number, branch_number)


def away_of(moments: Sequence[Moment]) -> list[float]:
    """Seconds until each request's line goes on; -1 where it does not."""
    away_s = [-1.0] * len(moments)
    nexts: dict[tuple[int, ...], float] = {}
    for number in range(len(moments) - 1, -1, -1):
        _, at_s, line = moments[number]
        if line is not None:
            if line in nexts:
                away_s[number] = nexts[line] - at_s
            nexts[line] = at_s
    return away_s
