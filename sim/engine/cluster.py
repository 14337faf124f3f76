"""The simulated cluster: a `Front` over servers in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ...policies.eviction.future import NextUse
from ...policies.types import Picoseconds
from ..state.config import ClusterConfig, OffloadLimits, PoolConfig
from ..state.connector import Connector
from ..state.content import Chains
from ..state.encoding import Embeddings
from ..state.front import Front
from ..state.halves import split_connector
from ..state.journal import Journal
from ..state.kv.blocks import BlockPool
from ..state.kv.build import make_pool
from ..state.kv.face import KVPool
from ..state.link import FifoLink
from ..state.offload import Load, OffloadConnector
from ..state.queue import waiting_line
from ..state.replica import Replica
from ..state.split import Pull
from ..state.swap import swap_space
from .clock import ARRIVAL, Clock
from .config import Effort
from .encoder import EncoderServer
from .lockstep import Lockstep, Rank
from .server import Server

S = TypeVar("S", bound=Server)


class Cluster(Front[Server]):
    """Replicas behind a router, in simulated time.

    Args:
        future: what oracle evictions are told.
    """

    def __init__(
        self,
        config: ClusterConfig,
        clock: Clock,
        journal: Journal,
        effort: Effort,
        chains: Chains,
        future: NextUse | None,
        *,
        leap: bool,
        on_answer: Callable[[], None],
    ) -> None:
        super().__init__(
            config,
            clock,
            journal,
            chains,
            self._carry,
            on_answer,
            self._later,
            self._carry_embeddings,
        )
        self.clock, self._effort, self._future = clock, effort, future
        link = config.kv_link
        #: what carries KV between pools
        self.link = FifoLink(link.latency_ps, link.bytes_per_s) if link is not None else None
        link = config.embedding_link
        #: what carries embeddings from encoders
        self.embedding_link = FifoLink(link.latency_ps, link.bytes_per_s) if link else None
        for pool in config.pools:
            for _ in range(pool.replicas if pool.role != "encode" else 0):
                first = len(self.servers)
                if pool.ranks == 1:
                    self.join(pool, [self._server(Server, pool, first, leap)])
                    continue
                numbers = range(first, first + pool.ranks)
                ranks = [self._server(Rank, pool, number, leap) for number in numbers]
                Lockstep(clock, ranks, effort, leap=leap)
                self.join(pool, ranks)
        for pool in config.pools:
            for _ in range(pool.replicas if pool.role == "encode" else 0):
                number = len(self.servers) + len(self.encoders)
                assert self._encodings is not None
                encoder = EncoderServer(clock, number, pool, effort, self._encodings.encoded)
                self.join_encoder(pool, encoder)
        self.open()

    @property
    def travel_totals(self) -> dict[str, int]:
        """Those of every host, and what the link for embeddings carried."""
        totals = super().travel_totals
        if self.embedding_link is not None:
            totals["embedding_link_bytes"] = self.embedding_link.carried_bytes
            totals["embedding_link_busy_ps"] = self.embedding_link.busy_ps
        return totals

    def _server(self, kind: type[S], pool: PoolConfig, number: int, leap: bool) -> S:
        eviction = pool.make_eviction()
        if eviction.promise.oracle and self._future is not None:
            eviction.attach(self._future)
        kv = make_pool(pool.limits, eviction, runs=pool.offload is None)
        splits = split_connector(self._splitter, pool, roles_change=self.roles.change)
        connector: Connector | None = splits
        if pool.offload is not None:
            connector = self._offload(pool, pool.offload, number, kv)
        scheduler = pool.make_scheduler()
        order = pool.order_for(scheduler)
        replica = Replica(
            pool.limits,
            kv,
            scheduler,
            lambda: waiting_line(order, lambda: self.clock.now_ps),
            connector=connector,
            swap=swap_space(pool),
            gaps=self.gaps,
        )
        return kind(
            self.clock,
            number,
            replica,
            pool.cost,
            self._effort,
            leap=leap,
            on_end=partial(self.ended, number),
            on_admit=partial(self.admitted, number),
            on_begin=None if splits is None else self._splitter.begun,
        )

    def _offload(
        self, pool: PoolConfig, tier: OffloadLimits, number: int, kv: KVPool
    ) -> OffloadConnector:
        assert isinstance(kv, BlockPool)
        link = FifoLink(tier.latency_ps, tier.bytes_per_s)

        def fetch(load: Load, here: Callable[[], None]) -> None:
            begun, record = self.clock.now_ps, load.target.record

            def arrived(_: object) -> None:
                record.transfer_bytes += load.size_bytes
                record.transfer_ps += self.clock.now_ps - begun
                self.servers[number].tell(here)

            self.clock.at(link.send(begun, load.size_bytes), ARRIVAL, arrived)

        found = OffloadConnector(kv, tier.blocks, pool.block_bytes, lambda moves: None, fetch)
        self.offloads.append(found)
        return found

    def _carry(self, pull: Pull, arrived: Callable[[], None]) -> None:
        assert self.link is not None
        arrival = self.link.send(self.clock.now_ps, pull.size_bytes, pull.before_bytes)
        self.clock.at(arrival, ARRIVAL, lambda _: arrived())

    def _carry_embeddings(self, part: Embeddings, arrived: Callable[[], bool]) -> None:
        assert self.embedding_link is not None
        arrival = self.embedding_link.send(self.clock.now_ps, part.size_bytes)

        def land(_: object) -> None:
            arrived()

        self.clock.at(arrival, ARRIVAL, land)

    def _later(self, time_ps: Picoseconds, call: Callable[[], None]) -> None:
        self.clock.at(time_ps, ARRIVAL, lambda _: call())
