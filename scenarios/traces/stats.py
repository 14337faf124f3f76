"""What a trace holds: rates, lengths, reuse, and the hit rate that no cache can beat.

Definitions of the ideal hit rate (infinite cache, requests in file order, none at the same time):
a request hits the longest beginning of its prompt that an earlier request of the same model had,
at the granularity of the trace's own blocks.

``token_hit_rate``
    hit tokens / prompt tokens, over the file. Mooncake conversation .3736, Claude Code .963.
``block_hit_rate``
    ids found / ids asked for, a partial last block counting as one; the tail without an id is
    left out. Mooncake .366, LMCache mini-SWE .933, tau-bench .837, Claude Code .963.
``session_token_hit_rate``
    the same in tokens when only the session's own past counts. Claude Code .963 (its ids are
    local to a session, so nothing else can count).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...policies.types import Segment
from ...sim.state.content import Chain, Chains, Contents
from .load import load
from .prompts import Prompts
from .rows import Row, Trace
from .source import Options


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts or answers: mean, percentiles (linear), maximum, total."""

    mean: float
    p50: float
    p90: float
    p99: float
    maximum: int
    total: int


@dataclass(frozen=True, slots=True)
class TraceStats:
    """Figures of a trace; None where the format cannot say.

    Attributes:
        duration_s: first to last arrival.
        rate_rps: requests per second of duration, (n - 1) / duration.
        gap_cv: standard deviation / mean of the gaps between arrivals (1 for Poisson).
        think_s: mean pause between an answer and the session's next request.
        blocks, distinct_blocks: ids asked for, and different ones among them.
        token_hit_rate, block_hit_rate, session_token_hit_rate: see the module.
    """

    file: str
    format: str
    requests: int
    sessions: int
    subagent_requests: int
    models: int
    block_size: int
    duration_s: float | None
    rate_rps: float | None
    gap_cv: float | None
    think_s: float | None
    input_tokens: Lengths
    output_tokens: Lengths
    blocks: int
    distinct_blocks: int
    token_hit_rate: float | None
    block_hit_rate: float | None
    session_token_hit_rate: float | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return asdict(self)


def stats(path: str | Path, format: str | None = None, block_size: int | None = None) -> TraceStats:
    """Read *path* and measure it.

    Raises:
        InputError: the trace cannot be read.
    """
    return measure(load(path, format=format, options=Options(block_size=block_size)))


def measure(trace: Trace) -> TraceStats:
    """The figures of a loaded trace."""
    rows = list(trace.requests())
    duration, rate, gap_cv = _arrivals(trace)
    thinks = [row.think_s for row in rows if row.think_s is not None and row.turn]
    blocks = sum(length for row in rows for _, length in row.runs) if trace.block_size > 1 else 0
    known = any(row.runs or row.follows for row in rows)
    shared = _Ideal(trace.block_size).add(rows) if known else None
    alone = _Ideal(trace.block_size, by_session=True).add(rows) if known else None
    sessions = {row.session for row in rows if row.session >= 0}
    return TraceStats(
        file=trace.file,
        format=trace.format,
        requests=len(rows),
        sessions=len(sessions),
        subagent_requests=sum(row.kind == "subagent" for row in rows),
        models=len({row.model for row in rows} - {""}),
        block_size=trace.block_size,
        duration_s=duration,
        rate_rps=rate,
        gap_cv=gap_cv,
        think_s=float(np.mean(thinks)) if thinks else None,
        input_tokens=_lengths(row.input_tokens for row in rows),
        output_tokens=_lengths(row.output_tokens for row in rows),
        blocks=blocks,
        distinct_blocks=blocks - shared.hit_blocks if shared and blocks else 0,
        token_hit_rate=shared.hit_tokens / shared.tokens if shared else None,
        block_hit_rate=shared.hit_blocks / blocks if shared and blocks else None,
        session_token_hit_rate=alone.hit_tokens / alone.tokens if alone and sessions else None,
        notes=trace.notes,
    )


class _Ideal:
    """An infinite cache: for every prefix identity, how far prompts have been seen to go."""

    def __init__(self, block_size: int, *, by_session: bool = False) -> None:
        self._prompts = Prompts(Contents(), block_size)
        self._block_size = max(block_size, 1)
        self._by_session = by_session
        self._chains = Chains()
        self._reach: dict[int, int] = {}
        self.tokens = self.hit_tokens = self.hit_blocks = 0

    def add(self, rows: Iterable[Row]) -> _Ideal:
        """Look up and insert every prompt, with its answer, in order."""
        for row, prompt in _with_history(rows, self._prompts):
            salt = str(row.session) if self._by_session else ""
            chain = self._chains.chain(prompt, model=row.model, salt=salt)
            hit = self._hit(chain)
            self.tokens += chain.tokens
            self.hit_tokens += hit
            self.hit_blocks += -(-hit // self._block_size)
            chain.append(self._prompts.answer(row), 0, row.output_tokens)
            ends = [*chain.starts[1:], chain.tokens]
            for link, end in zip(chain.links, ends, strict=True):
                self._reach[link] = max(self._reach.get(link, 0), end)
        return self

    def _hit(self, chain: Chain) -> int:
        hit = 0
        for link, end in zip(chain.links, [*chain.starts[1:], chain.tokens], strict=True):
            reach = self._reach.get(link, 0)
            if reach < end:
                return max(hit, reach)
            hit = end
        return hit


def _with_history(
    rows: Iterable[Row], prompts: Prompts
) -> Iterator[tuple[Row, tuple[Segment, ...]]]:
    said: dict[int, tuple[Segment, ...]] = {}
    for row in rows:
        prompt = prompts.prompt(row, said.get(row.session, ()))
        if row.session >= 0:
            quoted = Segment(prompts.answer(row), 0, row.output_tokens, "assistant")
            said[row.session] = (*prompt, quoted)
        yield row, prompt


def _arrivals(trace: Trace) -> tuple[float | None, float | None, float | None]:
    """Duration in s, requests per s and CV of the gaps, where arrivals are known."""
    if not trace.timed or len(trace.rows) < 2:
        return None, None, None
    times = np.array([row.at_s for row in trace.rows], dtype=float)
    gaps = np.diff(times)
    duration = float(times[-1] - times[0])
    if duration == 0:
        return 0.0, None, None
    return duration, len(gaps) / duration, float(gaps.std() / gaps.mean())


def _lengths(values: Iterable[int]) -> Lengths:
    array = np.fromiter(values, dtype=np.int64)
    p50, p90, p99 = (float(v) for v in np.percentile(array, [50, 90, 99]))
    return Lengths(float(array.mean()), p50, p90, p99, int(array.max()), int(array.sum()))
