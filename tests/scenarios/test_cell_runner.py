"""Cells in one process or several: the same records, and what has ended is kept."""

from pathlib import Path

import pytest

from infersim.scenarios import grid, load, runner
from infersim.scenarios.runner import Ended, Failed, Finished, Tick, run_cells

TEXT = """\
name: s
cluster: {gpu: h100-sxm, model: llama-3.1-8b, replicas: 2}
workload: {kind: open-loop, requests: 150, arrivals: 50}
compare:
  policies.routing: [round-robin, random, power-of-two]
"""
BAD_POLICY = (
    "from dataclasses import dataclass\n"
    "from infersim.policies.routing.base import Router\n\n"
    "@dataclass\nclass Wrong(Router):\n"
    '    """Fails at the tenth request."""\n\n'
    "    def route(self, request, cluster):\n"
    "        return cluster.replicas[0].id // (request.id < 10)\n"
)


def source(folder: Path, text: str = TEXT) -> load.Source:
    (folder / "wrong.py").write_text(BAD_POLICY)
    (folder / "s.yaml").write_text(text)
    return load.read(str(folder / "s.yaml"))


def run(
    found: load.Source, jobs: int, listen: runner.Listener = lambda event: None
) -> runner.Outcome:
    return run_cells(grid.cells(found)[1], found.folders, jobs=jobs, listen=listen)


def test_processes_change_nothing(tmp_path: Path) -> None:
    found = source(tmp_path)
    alone, together = run(found, 1), run(found, 2)
    assert (
        [one.cell for one in alone.finished] == [one.cell for one in together.finished] == [0, 1, 2]
    )
    for one, other in zip(alone.finished, together.finished, strict=True):
        assert one.records.name == other.records.name
        assert one.records.totals == other.records.totals
        for column, values in one.records.requests.items():
            assert values.tolist() == other.records.requests[column].tolist(), column


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_is_told(tmp_path: Path, jobs: int) -> None:
    events: list[Tick | Ended] = []
    run(source(tmp_path), jobs, events.append)
    ticks = [event for event in events if isinstance(event, Tick)]
    assert {tick.cell for tick in ticks} == {0, 1, 2}
    assert all(0 < tick.share <= 1 and tick.simulated_s > 0 for tick in ticks)
    assert sum(isinstance(event, Finished) for event in events) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_policy_that_fails_loses_only_its_cell(tmp_path: Path, jobs: int) -> None:
    found = source(tmp_path, TEXT.replace("random", "wrong.py:Wrong"))
    outcome = run(found, jobs)
    assert [one.cell for one in outcome.finished] == [0, 2]
    (failed,) = outcome.failed
    assert failed.cell == 1
    assert "ZeroDivisionError" in failed.message
    assert "wrong.py:9" in failed.where
    assert "fault of infersim" not in failed.help
    assert not failed.bad_input


def test_bad_input_is_told_apart(tmp_path: Path) -> None:
    text = TEXT.replace("kind: open-loop, requests: 150, arrivals: 50", "kind: trace, file: no.csv")
    outcome = run(source(tmp_path, text), 1)
    assert not outcome.finished
    assert {failed.bad_input for failed in outcome.failed} == {True}
    assert {failed.where for failed in outcome.failed} == {"workload.file"}


def test_an_interrupt_keeps_what_has_ended(tmp_path: Path) -> None:
    ended: list[Ended] = []

    def interrupt(event: Tick | Ended) -> None:
        if isinstance(event, Tick) and event.cell == 1:
            raise KeyboardInterrupt
        if isinstance(event, Finished | Failed):
            ended.append(event)

    outcome = run(source(tmp_path), 1, interrupt)
    assert outcome.interrupted
    assert [one.cell for one in outcome.finished] == [0]


def test_a_dead_process_is_an_error_not_a_hang(tmp_path: Path) -> None:
    (tmp_path / "dead.py").write_text(
        BAD_POLICY.replace("import dataclass", "import dataclass\nimport os").replace(
            "return cluster.replicas[0].id // (request.id < 10)", "os._exit(9)"
        )
    )
    found = source(tmp_path, TEXT.replace("random", "dead.py:Wrong"))
    outcome = run(found, 2)
    assert outcome.failed
    assert "a process died" in outcome.failed[0].message
    assert len(outcome.finished) + len(outcome.failed) == 3
