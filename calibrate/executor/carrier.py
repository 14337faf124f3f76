"""Moves KV of split requests and embeddings between devices, and KV between a device and its host.

On a virtual clock what moves arrives when a link of the scenario says; on a real one, when it is
there.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

from ...policies.types import Picoseconds, ReplicaId
from ...sim.state.config import LinkConfig, OffloadLimits
from ...sim.state.encoding import Embeddings
from ...sim.state.link import FifoLink
from ...sim.state.offload import Load
from ...sim.state.split import Pull
from ...sim.state.ties import ARRIVAL
from .clock import PS_PER_NS, Clock
from .encoder import EncoderServer
from .server import Server


class Carrier:
    """Copies blocks from replica to replica.

    What travels in parts while it is computed is copied with the last of them.

    Args:
        block_bytes: of a block of a replica, as the link counts them.

    Attributes:
        carried_bytes: sent so far.
        link_busy_ps: time spent sending, on the run's clock.
        copying_ps: real time that the copies took.
    """

    def __init__(
        self,
        link: LinkConfig | None,
        clock: Clock,
        server: Callable[[ReplicaId], Server],
        block_bytes: Callable[[ReplicaId], int],
    ) -> None:
        self._link = FifoLink(link.latency_ps, link.bytes_per_s) if link is not None else None
        self._clock, self._server, self._block_bytes = clock, server, block_bytes
        self.carried_bytes = 0
        self.link_busy_ps: Picoseconds = 0
        self.copying_ps: Picoseconds = 0

    def carry(self, pull: Pull, arrived: Callable[[], None]) -> None:
        """Copy what *pull* asks for, and call *arrived* at the time of its arrival."""
        assert self._link is not None  # scenarios with two kinds of pools have one
        copying_ps = self._copy(pull)
        self.copying_ps += copying_ps
        self.carried_bytes += pull.size_bytes
        now = self._clock.now_ps
        if self._clock.virtual:
            before = self._link.busy_ps
            arrival = self._link.send(now, pull.size_bytes, pull.before_bytes)
            self.link_busy_ps += self._link.busy_ps - before
            self._clock.at(arrival, ARRIVAL, lambda _: arrived())
        else:
            self.link_busy_ps += copying_ps
            self._clock.at(now, ARRIVAL, lambda _: arrived())

    def _copy(self, pull: Pull) -> Picoseconds:
        """Copy all blocks if no part of them is left to come; the real time that it took."""
        begun = perf_counter_ns()
        source, target = self._server(pull.prefill), self._server(pull.decode)
        size = target.replica.limits.block_size
        prompt = pull.target.prompt_tokens
        first, last = (prompt - pull.tokens) // size, -(-prompt // size)
        whole_bytes = (last - first) * self._block_bytes(pull.decode)
        if pull.before_bytes + pull.size_bytes < whole_bytes:
            return 0
        content = source.runner.read_blocks(pull.source.table[first:last])
        target.runner.write_blocks(pull.target.table[first:last], content)
        return (perf_counter_ns() - begun) * PS_PER_NS


class EmbeddingCarrier:
    """Copies embeddings from encoders to replicas.

    Attributes:
        carried_bytes, link_busy_ps, copying_ps: as `Carrier` has them.
    """

    def __init__(
        self,
        link: LinkConfig | None,
        clock: Clock,
        encoder: Callable[[ReplicaId], EncoderServer],
        server: Callable[[ReplicaId], Server],
    ) -> None:
        self._link = FifoLink(link.latency_ps, link.bytes_per_s) if link is not None else None
        self._clock, self._encoder, self._server = clock, encoder, server
        self.carried_bytes = 0
        self.link_busy_ps: Picoseconds = 0
        self.copying_ps: Picoseconds = 0

    def carry(self, part: Embeddings, arrived: Callable[[], bool]) -> None:
        """Send the output for an image; what *arrived* does not keep is not copied."""
        assert self._link is not None
        identifier, target = part.image.identifier, self._server(part.image.flow.prefill)
        content = self._encoder(part.encoder).runner.read_embedding(identifier)
        self.carried_bytes += part.size_bytes

        def land(_: object) -> None:
            if arrived():
                begun = perf_counter_ns()
                target.sight.arrived(identifier)
                target.runner.write_embedding(identifier, content)
                copying_ps = (perf_counter_ns() - begun) * PS_PER_NS
                self.copying_ps += copying_ps
                if not self._clock.virtual:
                    self.link_busy_ps += copying_ps

        now = self._clock.now_ps
        if self._clock.virtual:
            before = self._link.busy_ps
            arrival = self._link.send(now, part.size_bytes)
            self.link_busy_ps += self._link.busy_ps - before
            self._clock.at(arrival, ARRIVAL, land)
        else:
            self._clock.at(now, ARRIVAL, land)


class Fetcher:
    """Loads blocks of one replica from its tier in host memory.

    On a virtual clock they arrive when the link to the host says; on a real one, when they are
    there, which is looked up every `POLL_PS`.
    """

    POLL_PS = 50_000_000

    def __init__(self, tier: OffloadLimits, clock: Clock, server: Callable[[], Server]) -> None:
        self._link = FifoLink(tier.latency_ps, tier.bytes_per_s)
        self._clock, self._server = clock, server

    def keep(self, moves: list[tuple[int, int]]) -> None:
        """Copy blocks to slots, behind the steps launched so far."""
        self._server().runner.keep_blocks(moves)

    def fetch(self, load: Load, here: Callable[[], None]) -> None:
        """Copy slots to blocks, and tell the replica when they are there."""
        clock, record = self._clock, load.target.record
        begun = clock.now_ps
        done = self._server().runner.fetch_blocks(load.moves)

        def look(_: object) -> None:
            if not clock.virtual and not done():
                clock.at(clock.now_ps + self.POLL_PS, ARRIVAL, look)
                return
            record.transfer_bytes += load.size_bytes
            record.transfer_ps += clock.now_ps - begun
            self._server().tell(here)

        clock.at(self._link.send(begun, load.size_bytes) if clock.virtual else begun, ARRIVAL, look)
