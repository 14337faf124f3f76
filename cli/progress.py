"""How far a run is, on stderr: a bar on a terminal, a line for each cell that ended elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isnan
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .console import note

if TYPE_CHECKING:
    from ..scenarios.runner import Ended, Tick


class ProgressView:
    """Listens to a run (`scenarios.runner.run_cells`).

    Args:
        names: the cells, in order.
        quiet: say nothing.
    """

    def __init__(self, names: Sequence[str], *, quiet: bool) -> None:
        self._names, self._quiet = names, quiet
        self._ticks: dict[int, Tick] = {}
        self._ended: dict[int, float] = {}
        self._requests = 0
        self._simulated_s = 0.0
        self._start = perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressView:
        if not self._quiet and sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=len(self._names), detail="starting")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def hear(self, event: Tick | Ended) -> None:
        """Take note of progress, or of the end of a cell."""
        from ..scenarios.runner import Failed, Finished, Tick

        if isinstance(event, Tick):
            self._ticks[event.cell] = event
            self._simulated_s = max(self._simulated_s, event.simulated_s)
        else:
            self._ticks.pop(event.cell, None)
            self._ended[event.cell] = 1.0
            if isinstance(event, Finished):
                self._requests += len(event.records.requests["request_id"])
            if self._bar is None and not self._quiet:
                word = f"failed: {event.message}" if isinstance(event, Failed) else "done"
                count = f"[{len(self._ended)}/{len(self._names)}]"
                note(f"{count} {self._names[event.cell]}: {word} after {self._elapsed():.1f} s")
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), detail=self._detail())

    def _completed(self) -> float:
        shares = (tick.share for tick in self._ticks.values())
        return len(self._ended) + sum(share for share in shares if not isnan(share))

    def _detail(self) -> str:
        requests = self._requests + sum(tick.requests for tick in self._ticks.values())
        rate = requests / max(self._elapsed(), 1e-9)
        cells = f"{len(self._ended)}/{len(self._names)} cells · " if len(self._names) > 1 else ""
        done = f"simulated {self._simulated_s:,.0f} s · {requests:,} requests · {rate:,.0f} /s"
        return f"{cells}{done}"

    def _elapsed(self) -> float:
        return perf_counter() - self._start


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} % · {task.fields[detail]} ·"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
    )
