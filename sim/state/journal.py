"""Writes the records of a run: one row a request, a sampled series, exact totals."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, Protocol

import numpy as np

from ...policies.types import PS_PER_S, Picoseconds, Request
from .misses import Misses
from .records import GRAMMAR_COLUMNS, REQUEST_COLUMNS, SERIES_COLUMNS, Columns
from .replica import Replica
from .sequence import Sequence
from .ties import SAMPLE

MOST_SAMPLES = 512


NO_MISSES = Misses()


class Timer(Protocol):
    """What a sampler needs of a host's clock."""

    @property
    def now_ps(self) -> Picoseconds: ...
    @property
    def quiet(self) -> bool:
        """Whether nothing but samples is left to happen."""

    def at(self, time_ps: Picoseconds, priority: int, call: Callable[[Any], None]) -> object:
        """Call *call* at an absolute time."""


class Sampled(Protocol):
    """What a sampler reads of a replica in its host."""

    number: int
    replica: Replica

    def kv_now(self) -> tuple[int, int]:
        """(blocks held, blocks idle but cached) as the step under way has them."""


class RequestRecord:
    """What is known of one request so far, whichever replicas serve it."""

    __slots__ = (
        "arrival_ps",
        "embedding_bytes",
        "encode_ps",
        "grammar_ps",
        "hit_tokens",
        "misses",
        "preemptions",
        "prefill_replica",
        "recomputed",
        "remote_tokens",
        "scheduled_ps",
        "swapped_bytes",
        "transfer_bytes",
        "transfer_ps",
    )

    def __init__(self, arrival_ps: Picoseconds) -> None:
        self.arrival_ps = arrival_ps
        self.prefill_replica = self.scheduled_ps = self.grammar_ps = -1
        self.misses = NO_MISSES
        self.hit_tokens = self.remote_tokens = 0
        self.preemptions = self.recomputed = self.swapped_bytes = 0
        self.transfer_bytes = self.transfer_ps = 0
        self.embedding_bytes = self.encode_ps = 0


class Journal:
    """All rows of a run."""

    def __init__(self) -> None:
        self.requests = Columns(REQUEST_COLUMNS)
        self.series = Columns(SERIES_COLUMNS)
        self.arrived = self.finished = self.failed = 0
        self.preemptions = 0
        self._grammar_ps: dict[int, Picoseconds] = {}  # by request id, of those with a grammar

    def refused(self, request: Request, now: Picoseconds, reason: str) -> None:
        """A request was never served."""
        self.failed += 1
        self._row(request, "failed", reason, -1, RequestRecord(request.arrival_ps), -1, now, 0)

    def ended(self, seq: Sequence, record: RequestRecord, replica: int, now: Picoseconds) -> None:
        """A request was answered in full."""
        self.finished += 1
        tokens = seq.known - seq.prompt_tokens
        self._row(seq.request, "finished", "", replica, record, seq.first_token_ps, now, tokens)

    def _row(
        self,
        request: Request,
        status: str,
        reason: str,
        replica: int,
        record: RequestRecord,
        first_token_ps: Picoseconds,
        finish_ps: Picoseconds,
        output_tokens: int,
    ) -> None:
        misses = record.misses
        if request.grammar is not None:
            self._grammar_ps[request.id] = record.grammar_ps
        self.preemptions += record.preemptions
        self.requests.append(
            request.id,
            request.session,
            request.turn,
            request.kind,
            request.tenant,
            request.model,
            status,
            reason,
            replica,
            record.prefill_replica,
            request.arrival_ps,
            record.scheduled_ps,
            first_token_ps,
            finish_ps,
            request.prompt_tokens,
            output_tokens,
            record.hit_tokens,
            record.remote_tokens,
            *misses.tokens,
            misses.first,
            *misses.cost_ps,
            record.recomputed,
            record.preemptions,
            record.swapped_bytes,
            record.transfer_bytes,
            record.transfer_ps,
            record.embedding_bytes,
            record.encode_ps,
        )

    def request_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The columns of requests, in the order of their ids."""
        found = self.requests.arrays(sort_by=0)
        if self._grammar_ps:
            of = self._grammar_ps
            for name, dtype in GRAMMAR_COLUMNS.items():
                waits = [of.get(number, -1) for number in found["request_id"].tolist()]
                found[name] = np.array(waits, dtype=dtype)
        return found


class Sampler:
    """Reads every replica at equal intervals; halves its rate when it has too many samples.

    Args:
        preparing: whether prompts wait for embeddings or grammars, so that no replica has them.
    """

    def __init__(
        self,
        clock: Timer,
        servers: Seq[Sampled],
        journal: Journal,
        preparing: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock, self._servers, self._journal = clock, servers, journal
        self._preparing = preparing
        self._interval_ps: Picoseconds = PS_PER_S // 8
        self._samples = 0
        self._awake = False

    def wake(self) -> None:
        """Something will happen: sample until the cluster is idle again."""
        if not self._awake:
            self._awake = True
            self._next()

    def _next(self) -> None:
        due = (self._clock.now_ps // self._interval_ps + 1) * self._interval_ps
        self._clock.at(due, SAMPLE, self._sample)

    def _sample(self, callback: object) -> None:
        series, now = self._journal.series, self._clock.now_ps
        busy = self._preparing()
        for server in self._servers:
            replica = server.replica
            held, idle = server.kv_now()
            plans = replica.in_flight
            plan = plans[0] if plans else None
            prefill = sum([c.tokens for c in plan.chunks if c.tokens > 1]) if plan else 0
            decode = plan.tokens - prefill if plan else 0
            busy = busy or replica.has_requests
            series.append(
                now,
                server.number,
                replica.waiting_count,
                len(replica.running),
                held,
                idle,
                prefill,
                decode,
            )
        self._samples += 1
        if self._samples >= MOST_SAMPLES:
            self._samples //= 2
            self._interval_ps *= 2
            series.keep_every_other(len(self._servers))
        if busy and not self._clock.quiet:
            self._next()
        else:
            self._awake = False
