"""Replicas behind a router, as the simulator's cluster decides, over real devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...policies.eviction.future import NextUse
from ...policies.types import Picoseconds, ReplicaId
from ...sim.state.config import ClusterConfig, PoolConfig
from ...sim.state.connector import Connector
from ...sim.state.content import Chains
from ...sim.state.front import Front
from ...sim.state.halves import split_connector
from ...sim.state.journal import Journal
from ...sim.state.kv.blocks import BlockPool
from ...sim.state.kv.build import make_pool
from ...sim.state.offload import OffloadConnector
from ...sim.state.queue import waiting_line
from ...sim.state.replica import Replica
from ...sim.state.ties import ARRIVAL
from .carrier import Carrier, EmbeddingCarrier, Fetcher
from .clock import Clock
from .encoder import EncoderServer
from .runner import StepRunner
from .server import Server
from .swap import DeviceSwap
from .texts import Texts

MakeRunner: TypeAlias = Callable[[PoolConfig, ReplicaId], StepRunner]


class Cluster(Front[Server]):
    """Replicas behind a router, each on a device.

    Args:
        texts: makes the tokens of a replica's requests.
        make_runner: a device for each replica.
    """

    def __init__(
        self,
        config: ClusterConfig,
        clock: Clock,
        journal: Journal,
        chains: Chains,
        future: NextUse | None,
        *,
        texts: Callable[[], Texts],
        make_runner: MakeRunner,
        on_answer: Callable[[], None],
    ) -> None:
        self.carrier = Carrier(
            config.kv_link,
            clock,
            lambda number: self.servers[number],
            lambda number: self._pool_of[number].block_bytes,
        )
        self.embeddings = EmbeddingCarrier(
            config.embedding_link,
            clock,
            lambda number: self.devices[number],
            lambda number: self.servers[number],
        )
        super().__init__(
            config,
            clock,
            journal,
            chains,
            self.carrier.carry,
            on_answer,
            self._later,
            self.embeddings.carry,
        )
        self.clock = clock
        for pool in config.pools:
            for _ in range(pool.replicas if pool.role != "encode" else 0):
                number = len(self.servers)
                runner = make_runner(pool, number)
                self.join(pool, [self._server(pool, number, runner, texts(), future)])
        #: encoders by their number, which comes after those of all replicas
        self.devices: dict[ReplicaId, EncoderServer] = {}
        for pool in config.pools:
            for _ in range(pool.replicas if pool.role == "encode" else 0):
                number = len(self.servers) + len(self.encoders)
                self.devices[number] = self._encoder(pool, number, make_runner, texts())
                self.join_encoder(pool, self.devices[number])
        self.open()

    @property
    def all_devices(self) -> list[Server | EncoderServer]:
        """Replicas and encoders."""
        return [*self.servers, *self.devices.values()]

    @property
    def travel_totals(self) -> dict[str, int]:
        """Those of every host, and what the link for embeddings carried."""
        totals = super().travel_totals
        if self.config.embedding_link is not None:
            totals["embedding_link_bytes"] = self.embeddings.carried_bytes
            totals["embedding_link_busy_ps"] = self.embeddings.link_busy_ps
        return totals

    def _encoder(
        self, pool: PoolConfig, number: ReplicaId, make_runner: MakeRunner, texts: Texts
    ) -> EncoderServer:
        runner = make_runner(pool, number)
        assert self._encodings is not None
        return EncoderServer(self.clock, number, pool, runner, texts, self._encodings.encoded)

    def _server(
        self,
        pool: PoolConfig,
        number: int,
        runner: StepRunner,
        texts: Texts,
        future: NextUse | None,
    ) -> Server:
        eviction, limits = pool.make_eviction(), pool.limits
        if eviction.promise.oracle and future is not None:
            eviction.attach(future)
        # ids of blocks are what tensors are indexed by, so never runs of blocks
        kv = make_pool(limits, eviction, runs=False)
        splits = split_connector(self._splitter, pool, roles_change=self.roles.change)
        connector: Connector | None = splits
        if pool.offload is not None:
            assert isinstance(kv, BlockPool)  # a scenario keeps no tier behind a radix tree
            fetcher = Fetcher(pool.offload, self.clock, lambda: self.servers[number])
            connector = OffloadConnector(
                kv, pool.offload.blocks, pool.block_bytes, fetcher.keep, fetcher.fetch
            )
            self.offloads.append(connector)
        scheduler = pool.make_scheduler()
        order = pool.order_for(scheduler)
        replica = Replica(
            limits,
            kv,
            scheduler,
            lambda: waiting_line(order, lambda: self.clock.now_ps),
            connector=connector,
            swap=None if pool.swap is None else DeviceSwap(pool, runner),
            gaps=self.gaps,
        )
        return Server(
            self.clock,
            number,
            replica,
            pool.cost,
            runner,
            texts,
            on_end=lambda seq: self.ended(number, seq),
            on_admit=lambda plan: self.admitted(number, plan),
            on_begin=None if splits is None else self._splitter.begun,
        )

    def _later(self, time_ps: Picoseconds, call: Callable[[], None]) -> None:
        self.clock.at(time_ps, ARRIVAL, lambda _: call())
