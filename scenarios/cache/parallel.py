"""The cells of a study in parallel processes."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from ...policies.errors import InfersimError
from .study import Cell, Result, Study, run_cell

_STUDY: list[Study] = []  # of this process, if it is a worker


def run_study(
    study: Study, *, jobs: int, listen: Callable[[Result], object] = lambda result: None
) -> list[Result]:
    """Replay every cell; the results are in the order of `Study.cells`, whatever *jobs* is.

    Args:
        study: what to compare.
        jobs: processes; with 1 all happens in this one.
        listen: is told each result when it is there.

    Raises:
        InfersimError: a process died.
    """
    cells = study.cells()
    found: dict[Cell, Result] = {}
    for cell, result in _results(study, cells, jobs):
        found[cell] = result
        listen(result)
    return [found[cell] for cell in cells]


def _results(study: Study, cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, Result]]:
    if min(jobs, len(cells)) == 1:
        for cell in cells:
            yield cell, run_cell(study, cell)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (study,)) as pool:
        order = sorted(cells, key=lambda cell: study.effort(cell), reverse=True)
        pending = {pool.submit(_work, cell): cell for cell in order}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool:
            raise InfersimError(
                "a process died before its cache was replayed; most often memory ran out: "
                "--jobs 1 needs the least"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _start(study: Study) -> None:
    _STUDY.append(study)
    gc.collect()
    gc.freeze()  # the requests are there for good: let no later collection go through them
    gc.set_threshold(100_000)  # and caches are many small things that stay for long


def _work(cell: Cell) -> Result:
    return run_cell(_STUDY[0], cell)
