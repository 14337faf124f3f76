"""Cells → records: one after another, or in parallel processes; the records are the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from time import perf_counter
from typing import NamedTuple, TypeAlias

from ..policies.errors import InputError
from ..sim.engine.config import Effort
from ..sim.state.records import CellRecords
from .faults import described
from .grid import Cell

POLL_S = 0.1


class Tick(NamedTuple):
    """How far a cell has come.

    Attributes:
        cell: its index.
        simulated_s: simulated time.
        requests: how many have ended.
        share: 0..1, a guess; NaN where nothing says how long it takes.
    """

    cell: int
    simulated_s: float
    requests: int
    share: float


class Finished(NamedTuple):
    """A cell's records, what they cost to simulate, and the wall-clock time of it all."""

    cell: int
    records: CellRecords
    effort: Effort
    wall_s: float


class Failed(NamedTuple):
    """Why a cell has no records."""

    cell: int
    message: str
    where: str
    help: str
    bad_input: bool

    @property
    def error(self) -> InputError:
        """As something to print."""
        return InputError(self.message, where=self.where, help=self.help)


Ended: TypeAlias = Finished | Failed
Listener: TypeAlias = Callable[[Tick | Ended], None]


class Job(NamedTuple):
    """One cell to run, as a process is sent it."""

    number: int
    cell: Cell
    folders: tuple[Path, ...]
    leap: bool
    trace: bool


class Outcome(NamedTuple):
    """What became of the cells, in their order.

    Attributes:
        interrupted: somebody pressed Ctrl-C; cells that had not ended are in neither list.
    """

    finished: list[Finished]
    failed: list[Failed]
    interrupted: bool


def run_cells(
    cells: Sequence[Cell],
    folders: tuple[Path, ...],
    *,
    jobs: int,
    leap: bool = True,
    trace: bool = False,
    listen: Listener = lambda event: None,
) -> Outcome:
    """Simulate every cell; what has ended is kept whatever happens to the others.

    Args:
        cells: in the order of the result.
        folders: what relative paths in the scenario are searched in.
        jobs: processes; with 1 (or one cell) all happens in this one.
        leap: False plans every step, for comparison.
        trace: keep a row of every step; there are no leaps then.
        listen: is told of progress and of each end, in this process.
    """
    work = [Job(i, cell, folders, leap, trace) for i, cell in enumerate(cells)]
    ended: list[Ended] = []

    def hear(event: Tick | Ended) -> None:
        if not isinstance(event, Tick):
            ended.append(event)
        listen(event)

    interrupted = False
    try:
        if min(jobs, len(work)) == 1:
            for job in work:
                hear(run_cell(job, hear))
        else:
            _run_parallel(work, min(jobs, len(work)), hear)
    except KeyboardInterrupt:
        interrupted = True
    finished = sorted((e for e in ended if isinstance(e, Finished)), key=lambda e: e.cell)
    failed = sorted((e for e in ended if isinstance(e, Failed)), key=lambda e: e.cell)
    return Outcome(finished, failed, interrupted)


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_cell(job: Job, tell: Callable[[Tick], None]) -> Ended:
    """Build and simulate one cell. Never raises but for interrupts."""
    from .build import simulate_cell

    start = perf_counter()
    try:
        records, effort = simulate_cell(
            job.cell,
            job.folders,
            leap=job.leap,
            trace=job.trace,
            progress=lambda seconds, requests, share: tell(
                Tick(job.number, seconds, requests, share)
            ),
        )
    except Exception as error:
        said = described(error)
        where = getattr(said, "where", "") or f"cell {job.cell.name}"
        bad_input = isinstance(error, InputError)
        return Failed(job.number, said.message, where, said.help, bad_input)
    return Finished(job.number, records, effort, perf_counter() - start)


def _run_parallel(work: list[Job], processes: int, hear: Listener) -> None:
    context = multiprocessing.get_context("spawn")
    ticks: Queue[Tick] = context.Queue()
    with ProcessPoolExecutor(processes, context, _start_worker, (ticks,)) as pool:
        pending = {pool.submit(_work, job): job for job in work}
        try:
            while pending:
                done, _ = wait(pending, POLL_S, FIRST_COMPLETED)
                for event in _drain(ticks):
                    hear(event)
                for future in done:
                    hear(_result(future, pending.pop(future)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _result(future: Future[Ended], job: Job) -> Ended:
    try:
        return future.result()
    except BrokenProcessPool:
        return Failed(
            job.number,
            "a process died before the cell was done",
            f"cell {job.cell.name}",
            "most often memory ran out; --jobs 1 needs the least",
            bad_input=False,
        )


def _drain(ticks: Queue[Tick]) -> list[Tick]:
    out = []
    while True:
        try:
            out.append(ticks.get_nowait())
        except Empty:
            return out


_ticks: Queue[Tick] | None = None


def _start_worker(ticks: Queue[Tick]) -> None:
    """In a worker: progress goes to *ticks*, and Ctrl-C is the parent's business."""
    global _ticks
    _ticks = ticks
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(job: Job) -> Ended:
    assert _ticks is not None
    return run_cell(job, _ticks.put)
