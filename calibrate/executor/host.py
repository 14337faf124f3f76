"""One executed run, from the first arrival to the last answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...policies.errors import InfersimError, InputError, NoProgressError
from ...policies.eviction.future import NextUse
from ...policies.types import Picoseconds
from ...sim.cost.grades import time_by_grade
from ...sim.state.config import ClusterConfig, RunLimits
from ...sim.state.content import Chains
from ...sim.state.journal import Journal, Sampler
from ...sim.state.offload import offloaded
from ...sim.state.records import GapHistogram
from ...sim.state.session import Arrival, Call, CallResult, Workload
from ...sim.state.steps import StepLog
from ...sim.state.ties import ARRIVAL, SAMPLE
from .clock import Clock
from .cluster import Cluster, MakeRunner
from .sessions import Player
from .texts import Texts


@dataclass(slots=True)
class Executed:
    """What a run leaves behind.

    Attributes:
        requests, series: columns as in `sim.state.records`.
        itl: gaps between tokens.
        totals: exact counters.
        answers: per replica: request id -> position -> the token that the model sampled for it.
        device_ps: time that devices computed.
        copying_ps: time that moving KV from replica to replica took.
    """

    requests: dict[str, np.ndarray[Any, Any]]
    series: dict[str, np.ndarray[Any, Any]]
    itl: GapHistogram
    totals: dict[str, int]
    answers: list[dict[int, dict[int, int]]]
    device_ps: Picoseconds
    copying_ps: Picoseconds


class Host:
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
        check(config)
        self._clock, self._limits, self._told = clock, limits, told
        self._journal, self._ended = Journal(), 0
        chains, self._arrivals, future = seen or (Chains(), iter(workload.arrivals()), None)
        self.cluster = Cluster(
            config,
            clock,
            self._journal,
            chains,
            future,
            texts=texts,
            make_runner=make_runner,
            on_answer=self._answered,
        )
        for server in self.cluster.servers:
            server.replica.trace(log.replica(server.number))
        self._sampler = Sampler(clock, self.cluster.servers, self._journal)
        self._player = Player(clock, workload.resources, self.submit)
        self._age, self._reporting = config.signal_age_ps, False
        self._arrival: Arrival | None = None

    def play(self) -> Executed:
        """Run to the end.

        Raises:
            NoProgressError: requests are left that nothing can serve.
        """
        self._next_arrival()
        try:
            for server in self.cluster.servers:
                server.runner.ready()
            self._clock.run_out()
        finally:
            for server in self.cluster.servers:
                server.runner.close()
        left = self.cluster.open_requests
        if left:
            raise NoProgressError(f"the run stands still with {left} requests unanswered")
        servers = self.cluster.servers
        for server in servers:
            if server.replica.pool.check():
                raise InfersimError(f"replica {server.number} leaked KV")
        return Executed(
            self._journal.requests.arrays(sort_by=0),
            self._journal.series.arrays(),
            self.cluster.gaps,
            self._totals(),
            [server.answers for server in servers],
            sum(server.device_ps for server in servers),
            self.cluster.carrier.copying_ps,
        )

    # ---- what comes in --------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        limits = self._limits
        return (limits.requests is not None and self._journal.arrived >= limits.requests) or (
            limits.duration_ps is not None and self._clock.due_ps >= limits.duration_ps
        )

    def _next_arrival(self) -> None:
        self._arrival = arrival = next(self._arrivals, None)
        if arrival is not None:
            self._clock.at(max(arrival.at_ps, self._clock.due_ps), ARRIVAL, self._arrive)

    def _arrive(self, _: object) -> None:
        if self._closed or self._arrival is None:
            return
        what = self._arrival.what
        if isinstance(what, Call):
            self.submit(what, lambda result: None)
        else:
            self._player.start(what())
        self._next_arrival()

    def submit(self, call: Call, answer: Callable[[CallResult], Any]) -> None:
        """Take a call, unless the run takes no more work; then nobody ever answers."""
        if self._closed:
            return
        self._sampler.wake()
        if self._age and not self._reporting:
            self._reporting = True
            self._report_load(None)
        self.cluster.submit(call, answer)

    def _report_load(self, _: object) -> None:
        self.cluster.keep_reports()
        if _ is None or (self.cluster.open_requests and not self._clock.quiet):
            self._clock.at(self._clock.now_ps + self._age, SAMPLE, self._report_load)
        else:
            self._reporting = False

    def _answered(self) -> None:
        self._ended += 1
        self._told(self._clock.now_ps, self._ended)

    # ---- what comes out -------------------------------------------------------------------------

    def _totals(self) -> dict[str, int]:
        servers = self.cluster.servers
        return {
            "steps": sum(server.steps for server in servers),
            "preemptions": self._journal.preemptions,
            "evicted_blocks": sum(server.replica.pool.evicted for server in servers),
            "kv_blocks": sum(server.replica.pool.total for server in servers),
            "replicas": len(servers),
            "busy_ps": sum(server.busy_ps for server in servers),
            "simulated_ps": max((server.last_end for server in servers), default=0),
            "link_bytes": self.cluster.carrier.carried_bytes,
            "link_busy_ps": self.cluster.carrier.link_busy_ps,
            **self.cluster.travel_totals,
            **time_by_grade(server.ledger for server in servers),
            **offloaded(self.cluster.offloads),
        }


def check(config: ClusterConfig) -> None:
    """Refuse what the executor does not do.

    Raises:
        InputError: KV that travels during a prefill, data-parallel ranks, or speculation.
    """
    overlap = getattr(config.disaggregation, "overlap", "none")
    if overlap != "none":
        raise InputError(
            f"the executor moves KV when a prefill is done, not during it as overlap: {overlap}",
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
