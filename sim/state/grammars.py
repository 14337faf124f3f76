"""Structured output: a request may not be admitted before its grammar is compiled.

A replica compiles each grammar once, when the first request comes that asks for it, and keeps it;
whoever asks meanwhile waits for the same. Compiling is done by threads of the host beside the
engine, which are enough for all (half of the cores in vLLM), and takes nothing from its steps.

vLLM 0.33 (`v1/core/sched/scheduler.py`, `v1/structured_output/__init__.py`): the request stands in
line as WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR, and the scheduler passes it over; it keeps its place.
SGLang 0.5.23 (`constrained/grammar_manager.py`): it waits in a queue apart, of which the scheduler
knows nothing, and joins the line when it is ready. Both find a compiled grammar by its key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from ...policies.types import Grammar, Picoseconds, ReplicaId
from .replica import Replica
from .sequence import Sequence
from .split import Later


class Compiling(Protocol):
    """A replica in its host."""

    replica: Replica

    def submit(self, seq: Sequence) -> None:
        """A request arrives."""

    def tell(self, message: Callable[[], None]) -> None:
        """Do *message* to the replica at the next decision."""


class Grammars:
    """The grammars of every replica, compiled and being compiled.

    Args:
        server: a replica by its number.
        now: the host's time.
        later: how the host calls back at an absolute time; None: it cannot, and serves none.

    Attributes:
        compiled: how many were, over all replicas.
        apart: requests that wait outside of a replica's line.
    """

    def __init__(
        self,
        server: Callable[[ReplicaId], Compiling],
        now: Callable[[], Picoseconds],
        later: Later | None,
    ) -> None:
        self._server, self._now, self._later = server, now, later
        self._ready_ps: dict[tuple[ReplicaId, int], Picoseconds] = {}
        self.compiled = self.apart = 0

    def serve(self, number: ReplicaId, seq: Sequence) -> None:
        """A request arrives at a replica."""
        server, grammar, record = self._server(number), seq.request.grammar, seq.record
        if grammar is None:
            server.submit(seq)
            return
        waits_ps = self._begin(number, server, seq, grammar)
        if number == record.prefill_replica:
            record.grammar_ps = waits_ps

    def _begin(
        self, number: ReplicaId, server: Compiling, seq: Sequence, grammar: Grammar
    ) -> Picoseconds:
        """It has a grammar; how long it will wait for that."""
        now, later = self._now(), self._later
        assert later is not None
        ready_ps = self._ready_ps.get((number, grammar.key))
        if ready_ps is None:
            ready_ps = self._ready_ps[number, grammar.key] = now + grammar.compile_ps
            self.compiled += 1
        if ready_ps <= now:
            server.submit(seq)
            return 0
        if server.replica.limits.grammars_apart:
            self.apart += 1
            later(ready_ps, partial(self._joins, server, seq))
        else:
            server.replica.await_grammar(seq)
            server.submit(seq)
            ready = partial(server.replica.grammar_ready, seq)
            later(ready_ps, partial(server.tell, ready))
        return ready_ps - now

    def _joins(self, server: Compiling, seq: Sequence) -> None:
        self.apart -= 1
        server.submit(seq)
