"""One executed run, from the first arrival to the last answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...policies.errors import InputError
from ...policies.eviction.future import NextUse
from ...policies.types import Picoseconds
from ...sim.state.config import ClusterConfig, RunLimits
from ...sim.state.content import Chains
from ...sim.state.host import Host, Played
from ...sim.state.journal import Journal
from ...sim.state.session import Arrival, Workload
from ...sim.state.steps import StepLog
from .clock import Clock
from .cluster import Cluster, MakeRunner
from .server import Server
from .sessions import Player
from .texts import Texts


@dataclass(slots=True)
class Executed(Played):
    """What a run leaves behind.

    Attributes:
        answers: per replica: request id -> position -> the token that the model sampled for it.
        device_ps: time that devices computed.
        copying_ps: time that moving KV and embeddings from replica to replica took.
    """

    answers: list[dict[int, dict[int, int]]]
    device_ps: Picoseconds
    copying_ps: Picoseconds


class DeviceRun(Host[Server]):
    """A cluster on devices, its clients and its journal.

    Args:
        texts: makes the tokens of a replica's requests.
        make_runner: a device for each replica.
        log: gets a row for every step.
        told: called after each answer with the time and the number of answers.
        seen: chains, arrivals and future uses, where an oracle policy read them beforehand.

    Raises:
        InputError: the cluster asks for what the executor does not do.
    """

    def __init__(
        self,
        config: ClusterConfig,
        workload: Workload,
        limits: RunLimits,
        clock: Clock,
        *,
        texts: Callable[[], Texts],
        make_runner: MakeRunner,
        log: StepLog,
        told: Callable[[Picoseconds, int], None] = lambda now, ended: None,
        seen: tuple[Chains, Iterator[Arrival], NextUse] | None = None,
    ) -> None:
        check(config, virtual=clock.virtual)
        self._clock, self._told, self._ended = clock, told, 0
        chains, arrivals, future = seen or (Chains(), iter(workload.arrivals()), None)
        self.cluster = Cluster(
            config,
            clock,
            Journal(),
            chains,
            future,
            texts=texts,
            make_runner=make_runner,
            on_answer=self._answered,
        )
        for server in self.cluster.servers:
            server.replica.trace(log.replica(server.number))
        player = Player(clock, workload.resources, self.submit)
        super().__init__(clock, self.cluster, arrivals, limits, player.start)

    def play(self) -> Executed:
        """Run to the end.

        Raises:
            NoProgressError: requests are left that nothing can serve.
        """
        self._next_arrival()
        try:
            for device in self.cluster.all_devices:
                device.runner.ready()
            self._clock.run_out()
        finally:
            for device in self.cluster.all_devices:
                device.runner.close()
        servers, carrier = self.cluster.servers, self.cluster.carrier
        steps = sum(server.steps for server in servers)
        played = self._played(steps, carrier.carried_bytes, carrier.link_busy_ps)
        return Executed(
            played.requests,
            played.series,
            played.itl,
            played.totals,
            [server.answers for server in servers],
            sum(device.device_ps for device in self.cluster.all_devices),
            carrier.copying_ps + self.cluster.embeddings.copying_ps,
        )

    def _answered(self) -> None:
        self._ended += 1
        self._told(self._clock.now_ps, self._ended)


def check(config: ClusterConfig, *, virtual: bool) -> None:
    """Refuse what the executor does not do.

    Args:
        virtual: steps last as long as the cost model says.

    Raises:
        InputError: data-parallel ranks, speculation; on a real clock KV that travels during a
            prefill, and swapping.
    """
    placement = getattr(config.disaggregation, "prompts", None) or config.disaggregation
    overlap = getattr(placement, "overlap", "none")
    if overlap != "none" and not virtual:
        raise InputError(
            "on a real clock the executor moves KV when a prefill is done, not during it as "
            f"overlap: {overlap}",
            where="policies.disaggregation",
        )
    for pool in config.pools:
        where = f"cluster pool {pool.name}"
        if pool.ranks > 1:
            raise InputError(
                f"the executor runs one scheduler a replica, found {pool.ranks} ranks", where=where
            )
        if pool.limits.num_spec_tokens:
            raise InputError("the executor does not speculate", where=where)
        if pool.swap is not None and not virtual:
            raise InputError(
                "on a real clock the executor does not swap: steps would wait for a modelled link",
                where=where,
                help="--clock virtual, or preemption_mode: recompute",
            )
