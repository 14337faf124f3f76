"""How far a calibration is, on stderr: a bar with the time left, or a line for each operation."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .console import note

if TYPE_CHECKING:
    from ..calibrate.measure.run import Tick

_LINE_EVERY_S = 10.0


class CalibrationView:
    """Listens to a calibration (`calibrate.session.calibrate`).

    Args:
        minutes: after which it stops in any case.
        quiet: say nothing.
    """

    def __init__(self, minutes: float, *, quiet: bool) -> None:
        self._minutes, self._quiet = minutes, quiet
        self._bar: Any = None
        self._task: Any = None
        self._begun = self._said = monotonic()

    def __enter__(self) -> CalibrationView:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} % · {task.fields[detail]} ·"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, detail="loading")
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

    def hear(self, tick: Tick) -> None:
        """Take note of progress."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=tick.done, total=tick.total, detail=self._detail(tick)
            )
        elif not self._quiet and monotonic() - self._said > _LINE_EVERY_S:
            self._said = monotonic()
            note(f"{tick.done / tick.total:.0%} · {self._detail(tick)}")

    def _detail(self, tick: Tick) -> str:
        elapsed = (monotonic() - self._begun) / 60
        return f"{tick.doing} · {elapsed:.1f} of at most {self._minutes:g} min"
