"""The requests of a trace in the order in which a cluster gets them, with what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import NamedTuple

from ...policies.errors import InputError
from ...policies.types import PS_PER_S, Request
from ...sim.state.content import Chain, Chains, Contents
from ..traces.prompts import Prompts
from ..traces.rows import Trace
from .stream import Moment, away_of, moments_of


class Visit(NamedTuple):
    """One request and the identity of its prompt."""

    request: Request
    chain: Chain


@dataclass(frozen=True)
class Visits:
    """Requests in order of arrival; `Request.id` counts them from 0.

    Attributes:
        name: the trace's file, for readers.
        requests: what the cluster gets.
        sessions: how many sessions they belong to.
    """

    name: str
    requests: Sequence[Visit]
    sessions: int = 0

    @cached_property
    def prompt_tokens(self) -> int:
        """Of all requests."""
        return sum(request.prompt_tokens for request, _ in self.requests)


def visits_of(trace: Trace, session_every_s: float, name: str = "") -> Visits:
    """The requests of a trace with block ids, by time.

    Prompts are those that ``infersim run`` makes of the trace (`traces.prompts`). Sessions of a
    closed-loop trace start one after another, *session_every_s* apart; within a session requests
    keep their recorded times, whatever the cluster does. `tool_time_s` is as in `stream.stream_of`.

    Raises:
        InputError: the trace has no block ids, or *session_every_s* is no time.
    """
    if not trace.block_size:
        raise InputError(
            f"a trace in the format {trace.format} has no block ids, so no cache can be replayed",
            where=trace.file,
            help="formats with hash_ids have them, e.g. mooncake, bailian, lmcache, claude-code",
        )
    if not (isfinite(session_every_s) and session_every_s > 0):
        raise InputError(f"sessions every {session_every_s:g} s: it must be more than 0")
    moments = sorted(moments_of(trace, session_every_s), key=lambda moment: moment[1])
    prompts, chains = Prompts(Contents(), trace.block_size), Chains()
    away_s = away_of(moments)
    visits = [
        _visit(number, moment, prompts, chains, away_s[number])
        for number, moment in enumerate(moments)
    ]
    return Visits(name, visits, len({m[0].session for m in moments if m[0].session >= 0}))


def _visit(number: int, moment: Moment, prompts: Prompts, chains: Chains, away_s: float) -> Visit:
    row, at_s, _ = moment
    prompt = prompts.prompt(row)
    request = Request(
        id=number,
        arrival_ps=round(at_s * PS_PER_S),
        prompt=prompt,
        prompt_tokens=row.input_tokens,
        max_tokens=1,
        output_content=-1,
        session=row.session,
        turn=row.turn,
        kind=row.kind,
        model=row.model,
        tool_time_s=away_s,
    )
    return Visit(request, chains.chain(prompt, model=row.model))
