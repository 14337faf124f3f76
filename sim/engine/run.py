"""One simulated run, from the first arrival to the last answer."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..state.config import ClusterConfig, RunLimits
from ..state.content import Chains
from ..state.host import Host, Played
from ..state.journal import Journal
from ..state.session import Call, CallResult, Workload
from ..state.steps import StepLog
from .clock import Clock
from .cluster import Cluster
from .config import Effort, Progress
from .foresight import foresee, oracle_pool
from .server import Server
from .sessions import Player

PROGRESS_EVERY = 64  #: requests between two calls of the progress callback


@dataclass(slots=True)
class Outcome(Played):
    """What a run leaves behind.

    Attributes:
        effort: what it cost to simulate.
    """

    effort: Effort


class Run(Host[Server]):
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
        self._clock, self._effort, self._report = Clock(), Effort(), progress
        self._journal, self._check = Journal(), check
        self._progress = Progress(expected=workload.expected_requests)
        if limits.requests is not None:
            expected = self._progress.expected
            self._progress.expected = min(limits.requests, expected or limits.requests)
        chains, future = Chains(), None
        seer = oracle_pool(config)
        if seer is None:
            arrivals = iter(workload.arrivals())
        else:
            future, arrivals = foresee(config, seer, workload, chains)
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
        player = Player(self._clock, workload.resources, self.submit)
        super().__init__(self._clock, self.cluster, arrivals, limits, player.start)

    def play(self) -> Outcome:
        """Run to the end.

        Raises:
            NoProgressError: requests are left that nothing can serve.
        """
        began = time.perf_counter()
        self._next_arrival()
        with _rare_collections():
            self._clock.run_out()
        link = self.cluster.link
        carried = (link.carried_bytes, link.busy_ps) if link is not None else (0, 0)
        played = self._played(self._effort.steps, *carried)
        self._effort.wall_s = time.perf_counter() - began
        return Outcome(played.requests, played.series, played.itl, played.totals, self._effort)

    def submit(self, call: Call, answer: Callable[[CallResult], Any]) -> None:
        """Take a call, unless the run takes no more work; then nobody ever answers."""
        super().submit(call, answer)
        if self._check:
            self.check_books(idle=False)

    def _answered(self) -> None:
        if self._check:
            self.check_books(idle=False)
        progress, journal = self._progress, self._journal
        progress.ended += 1
        if self._report is not None and progress.ended % PROGRESS_EVERY == 0:
            progress.arrived, progress.now_ps = journal.arrived, self._clock.now_ps
            self._report(progress)


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
