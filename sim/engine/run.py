"""One simulated run, from the first arrival to the last answer."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...policies.errors import InfersimError, NoProgressError
from ...policies.types import Picoseconds
from ..cost.grades import time_by_grade
from ..state.config import ClusterConfig, RunLimits
from ..state.content import Chains
from ..state.journal import Journal, Sampler
from ..state.offload import offloaded
from ..state.records import GapHistogram
from ..state.session import Arrival, Call, CallResult, Workload
from ..state.steps import StepLog
from .clock import ARRIVAL, SAMPLE, Clock
from .cluster import Cluster
from .config import Effort, Progress
from .foresight import foresee, oracle_pool
from .sessions import Player

PROGRESS_EVERY = 64  #: requests between two calls of the progress callback


@dataclass(slots=True)
class Outcome:
    """What a run leaves behind.

    Attributes:
        requests, series: columns as in `sim.state.records`.
        itl: gaps between tokens.
        totals: exact counters, equal with leaps on and off.
        effort: what it cost to simulate.
    """

    requests: dict[str, np.ndarray[Any, Any]]
    series: dict[str, np.ndarray[Any, Any]]
    itl: GapHistogram
    totals: dict[str, int]
    effort: Effort


class Run:
    """A cluster, its clients and its journal.

    Args:
        leap: take runs of equal decode steps as one event.
        check: verify the KV pools' books at every event (slow).
        trace: gets a row for every step.
    """

    def __init__(
        self,
        config: ClusterConfig,
        workload: Workload,
        *,
        limits: RunLimits,
        leap: bool,
        progress: Callable[[Progress], None] | None,
        check: bool,
        trace: StepLog | None,
    ) -> None:
        self._clock, self._journal, self._effort = Clock(), Journal(), Effort()
        self._limits, self._report = limits, progress
        self._progress = Progress(expected=workload.expected_requests)
        if limits.requests is not None:
            expected = self._progress.expected
            self._progress.expected = min(limits.requests, expected or limits.requests)
        self._arrival: Arrival | None = None
        chains, future = Chains(), None
        seer = oracle_pool(config)
        if seer is None:
            self._arrivals = iter(workload.arrivals())
        else:
            future, self._arrivals = foresee(config, seer, workload, chains)
        self.cluster = Cluster(
            config,
            self._clock,
            self._journal,
            self._effort,
            chains,
            future,
            leap=leap and trace is None,
            on_answer=self._answered,
        )
        if trace is not None:
            for server in self.cluster.servers:
                server.replica.trace(trace.replica(server.number))
        self._sampler = Sampler(self._clock, self.cluster.servers, self._journal)
        self._player = Player(self._clock, workload.resources, self.submit)
        self._age = config.signal_age_ps
        self._reporting = False
        self._check = check

    def play(self) -> Outcome:
        """Run to the end.

        Raises:
            NoProgressError: requests are left that nothing can serve.
        """
        began = time.perf_counter()
        self._next_arrival()
        with _rare_collections():
            self._clock.run_out()
        left = self.cluster.open_requests
        if left:
            raise NoProgressError(f"the run stands still with {left} requests unanswered")
        self.check_books(idle=True)
        self._effort.wall_s = time.perf_counter() - began
        return Outcome(
            self._journal.requests.arrays(sort_by=0),
            self._journal.series.arrays(),
            self.cluster.gaps,
            self._totals(),
            self._effort,
        )

    # ---- what comes in --------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        limits = self._limits
        return (limits.requests is not None and self._journal.arrived >= limits.requests) or (
            limits.duration_ps is not None and self._clock.now_ps >= limits.duration_ps
        )

    def _next_arrival(self) -> None:
        self._arrival = arrival = next(self._arrivals, None)
        if arrival is not None:
            self._clock.at(max(arrival.at_ps, self._clock.now_ps), ARRIVAL, self._arrive)

    def _arrive(self, _: object) -> None:
        if self._closed or self._arrival is None:
            return
        what = self._arrival.what
        if isinstance(what, Call):
            self.submit(what, _nobody_waits)
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
        if self._check:
            self.check_books(idle=False)

    def _report_load(self, _: object) -> None:
        """Reports go out at once when work comes, then at every signal age while there is any."""
        self.cluster.keep_reports()
        if _ is None or (self.cluster.open_requests and not self._clock.quiet):
            self._clock.at(self._clock.now_ps + self._age, SAMPLE, self._report_load)
        else:
            self._reporting = False

    def _answered(self) -> None:
        if self._check:
            self.check_books(idle=False)
        progress, journal = self._progress, self._journal
        progress.ended += 1
        if self._report is not None and progress.ended % PROGRESS_EVERY == 0:
            progress.arrived, progress.now_ps = journal.arrived, self._clock.now_ps
            self._report(progress)

    # ---- what comes out -------------------------------------------------------------------------

    def check_books(self, *, idle: bool) -> None:
        """Verify that allocated + free = total on every replica.

        Raises:
            InfersimError: the books of a pool are wrong, or blocks leaked.
        """
        for server in self.cluster.servers:
            replica = server.replica
            held = replica.pool.check()
            if idle and (held or replica.pool.free != replica.pool.total):
                raise InfersimError(
                    f"replica {server.number} leaked KV: {replica.pool.total - replica.pool.free} "
                    f"of {replica.pool.total} blocks are held with nothing running"
                )

    def _totals(self) -> dict[str, int]:
        servers, journal, link = self.cluster.servers, self._journal, self.cluster.link
        end: Picoseconds = max((server.last_end for server in servers), default=0)
        return {
            "steps": self._effort.steps,
            "preemptions": journal.preemptions,
            "evicted_blocks": sum(server.replica.pool.evicted for server in servers),
            "kv_blocks": sum(server.replica.pool.total for server in servers),
            "replicas": len(servers),
            "busy_ps": sum(server.busy_ps for server in servers),
            "simulated_ps": end,
            "link_bytes": link.carried_bytes if link is not None else 0,
            "link_busy_ps": link.busy_ps if link is not None else 0,
            **self.cluster.travel_totals,
            **offloaded(self.cluster.offloads),
            **time_by_grade(server.ledger for server in servers),
        }


def _nobody_waits(result: CallResult) -> None:
    """Open-loop clients do not care."""


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Keep the cyclic collector from walking all live requests again and again."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def simulate(
    config: ClusterConfig,
    workload: Workload,
    *,
    limits: RunLimits | None = None,
    leap: bool = True,
    progress: Callable[[Progress], None] | None = None,
    check: bool = False,
    trace: StepLog | None = None,
) -> Outcome:
    """Simulate *workload* on the cluster that *config* describes.

    Args:
        limits: when to take no more work.
        leap: take runs of equal decode steps as one event; the records are the same, byte for
            byte, with and without.
        progress: called every few requests.
        check: verify the KV pools' books at every arrival and answer (slow).
        trace: gets a row for every step; there are no leaps then, which changes no record.

    Raises:
        NoProgressError: requests are left that nothing can serve.
    """
    run = Run(
        config,
        workload,
        limits=limits or RunLimits(),
        leap=leap,
        progress=progress,
        check=check,
        trace=trace,
    )
    return run.play()
