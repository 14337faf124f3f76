"""The folder of a run: written beside its place, then moved there whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..policies.errors import InfersimError, InputError
from .console import note

if TYPE_CHECKING:
    from ..scenarios.grid import Cell
    from ..scenarios.runner import Finished, Outcome
    from ..scenarios.schema.scenario import Scenario
    from ..sim.state.records import CellRecords

ROOT = Path(__file__).parents[1]
SUMMARY = "summary.json"


class Written(NamedTuple):
    """What `RunFolder.write` wrote: the content of summary.json, what to print, what to open."""

    summary: dict[str, Any]
    text: str
    file: Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run goes.

    Attributes:
        folder: the place; a run that is not whole goes beside it, ``…-incomplete``.
        scenario: what is run.
        inputs: every file that the scenario reads, by the name it has there.
        files: their SHA-256.
        hash: eight hexadecimal digits of the scenario and these files.
    """

    folder: Path
    scenario: Scenario
    inputs: Mapping[str, Path]
    files: dict[str, str]
    hash: str

    @classmethod
    def choose(
        cls,
        scenario: Scenario,
        inputs: Mapping[str, Path],
        out: Path | None,
        *,
        kind: str = "",
    ) -> RunFolder:
        """The folder *out*, or ``runs/<name><kind>-<hash>``.

        Raises:
            InputError: it holds something that is no run.
        """
        files = {
            name: sha256(path.read_bytes()).hexdigest() for name, path in sorted(inputs.items())
        }
        text = json.dumps([scenario.resolved(), files])
        digest = sha256(text.encode()).hexdigest()[:8]
        folder = out or Path("runs") / f"{scenario.name}{kind}-{digest}"
        _check(folder)
        return cls(folder, scenario, inputs, files, digest)

    def write(
        self,
        cells: Sequence[Cell],
        outcome: Outcome,
        timing: Mapping[str, Any],
        *,
        command: str,
        report: bool,
    ) -> Written:
        """Write everything, or nothing.

        Args:
            cells: all of them, and their perturbed runs; those that *outcome* lacks are named as
                missing.
            timing: wall-clock figures of the whole run.
            command: how to get the same figures.
            report: whether report.html is wanted.

        Raises:
            InfersimError: it cannot be written; what stood there before still does.
        """
        from ..reports.metrics import dumps, intervals, summarize
        from ..reports.page import write_report
        from ..reports.tables import write_requests, write_series, write_steps
        from ..reports.terminal import render

        ended = {one.cell for one in outcome.finished}
        missing = [cell.name for i, cell in enumerate(cells) if i not in ended]
        finished = [one for one in outcome.finished if not cells[one.cell].sample]
        records = [one.records for one in finished]
        folder, title = self.folder, self.scenario.name
        if missing:
            note = f"INCOMPLETE: {len(missing)} of {len(cells)} cells did not end"
            folder = folder.with_name(f"{folder.name}-incomplete")
            title = f"{title} ({note})"
            records = [replace(cell, notes=[note, *cell.notes]) for cell in records]
        spread = [intervals(found) for found in _samples(cells, outcome, finished)]
        metrics = [
            summarize(cell) | {"intervals": interval}
            for cell, interval in zip(records, spread, strict=True)
        ]
        origin = self._provenance(records)
        summary = {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "provenance": origin,
            "cells": [
                {"name": cell.name, "params": cell.params, "metrics": metric}
                for cell, metric in zip(records, metrics, strict=True)
            ],
        }
        if missing:
            summary["incomplete"] = missing
        cell_times = [
            {"cell": one.records.name, "wall_s": one.wall_s, **asdict(one.effort)}
            for one in finished
        ]
        text = render(title, records, metrics)
        with _said(folder, text), _undisturbed(), _replacing(folder) as partial:
            scenario = scenario_text(self.scenario)
            _write(partial / "scenario.yaml", scenario)
            self._copy_inputs(partial)
            _write(partial / SUMMARY, dumps(summary))
            _write(partial / "timing.json", dumps({**timing, "cells": cell_times}))
            write_requests(partial / "requests.parquet", records)
            write_series(partial / "series.parquet", records)
            if any(cell.steps is not None for cell in records):
                write_steps(partial / "steps.parquet", records)
            if report:
                write_report(
                    partial / "report.html", title, records, metrics, scenario, origin, command
                )
        last = folder / "report.html" if report else folder / SUMMARY
        return Written(summary, text, last)

    def _copy_inputs(self, folder: Path) -> None:
        """The user's policies, profiles and catalogue entries: the scenario runs from here."""
        for name, path in self.inputs.items():
            target = (folder / name).resolve()
            small = target.suffix in (".py", ".yaml", ".yml") or target.name == "profile.json"
            if small and target.is_relative_to(folder) and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)

    def _provenance(self, records: Sequence[CellRecords]) -> dict[str, Any]:
        """What made the figures: nothing of the time or the machine."""
        return {
            "version": __version__,
            "git_commit": _commit(),
            "seed": self.scenario.seed,
            "scenario_hash": self.hash,
            "cost_source": sorted({cell.cost_source for cell in records}),
            "files": self.files,
        }


def _samples(
    cells: Sequence[Cell], outcome: Outcome, finished: Sequence[Finished]
) -> list[list[dict[str, Any]]]:
    """For each of *finished*, the metrics of its perturbed runs."""
    from ..reports.metrics import summarize

    found: dict[str, list[dict[str, Any]]] = {one.records.name: [] for one in finished}
    for one in outcome.finished:
        cell = cells[one.cell]
        if cell.sample and cell.whose in found:
            found[cell.whose].append(summarize(one.records))
    return [found[one.records.name] for one in finished]


def scenario_text(scenario: Scenario) -> str:
    """The scenario as YAML, with every default filled in."""
    import yaml

    head = f"# {scenario.name}, as it ran: every default of infersim {__version__} filled in.\n"
    body = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True, width=100)
    return head + body


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder", where="--out")
    above = next(path for path in folder.resolve().parents if path.exists())
    try:
        Path(mkdtemp(prefix=".infersim-", dir=above)).rmdir()
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror} ({above})"
        raise InputError(message, where="--out") from None
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUMMARY).is_file():
        raise InputError(
            f"{folder} holds something that is no run, and would be replaced",
            where="--out",
            help="name a new folder, or one that an earlier run wrote",
        )


@contextmanager
def _said(folder: Path, text: str) -> Iterator[None]:
    """A full disk does not take the figures away: *text* is said on stderr."""
    try:
        yield
    except OSError as error:
        note(text)
        reason = error.strerror or str(error)
        raise InfersimError(f"{folder} cannot be written: {reason}") from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait until what is done is written: it takes seconds, the run took longer."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or current_thread() is not main_thread():
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; it becomes *folder* on success and is removed on any failure.

    What stood at *folder* stays until the new one is whole.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        partial.mkdir()
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _commit() -> str | None:
    """The commit of the checkout that infersim runs from, "-dirty" with changes; None: none."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
