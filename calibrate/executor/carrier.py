"""Moves the KV of split requests between devices."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from time import perf_counter_ns

from ...policies.types import Picoseconds
from ...sim.state.link import FifoLink
from ...sim.state.split import Pull
from ...sim.state.ties import ARRIVAL
from .clock import PS_PER_NS, Clock
from .config import LinkLike
from .server import Server


class Carrier:
    """Copies blocks from replica to replica.

    On a virtual clock they arrive when the link of the scenario says; on a real one, when they are
    there.

    Attributes:
        carried_bytes: sent so far.
        link_busy_ps: time spent sending, on the run's clock.
        copying_ps: real time that the copies took.
    """

    def __init__(self, link: LinkLike | None, clock: Clock, servers: Seq[Server]) -> None:
        self._link = FifoLink(link.latency_ps, link.bytes_per_s) if link is not None else None
        self._clock, self._servers = clock, servers
        self.carried_bytes = 0
        self.link_busy_ps: Picoseconds = 0
        self.copying_ps: Picoseconds = 0

    def carry(self, pull: Pull, arrived: Callable[[], None]) -> None:
        """Copy what *pull* asks for, and call *arrived* at the time of its arrival."""
        assert self._link is not None  # scenarios with two kinds of pools have one
        begun = perf_counter_ns()
        source, target = self._servers[pull.prefill], self._servers[pull.decode]
        size = target.replica.limits.block_size
        prompt = pull.target.prompt_tokens
        first, last = (prompt - pull.tokens) // size, -(-prompt // size)
        content = source.runner.read_blocks(pull.source.table[first:last])
        target.runner.write_blocks(pull.target.table[first:last], content)
        copying_ps = (perf_counter_ns() - begun) * PS_PER_NS
        self.copying_ps += copying_ps
        self.carried_bytes += pull.size_bytes
        now = self._clock.now_ps
        if self._clock.virtual:
            before = self._link.busy_ps
            arrival = self._link.send(now, pull.size_bytes)
            self.link_busy_ps += self._link.busy_ps - before
            self._clock.at(arrival, ARRIVAL, lambda _: arrived())
        else:
            self.link_busy_ps += copying_ps
            self._clock.at(now, ARRIVAL, lambda _: arrived())
