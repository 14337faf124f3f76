"""Requests name models: they go to the pool that serves them, or fail with the reason."""

from __future__ import annotations

from pathlib import Path

from infersim.scenarios import build, grid, load

TEXT = """
name: models
cluster: {gpu: h100-sxm, model: llama-3.1-8b}
workload:
  kind: agent
  sessions: 6
  concurrency: 2
  habits: {model_switched: {share: 0.5, to: MODEL}}
"""


def reasons(tmp_path: Path, model: str) -> set[str]:
    file = tmp_path / "models.yaml"
    file.write_text(TEXT.replace("MODEL", model))
    source = load.read(str(file))
    _, cells = grid.cells(source)
    simulated = build.simulate_cell(cells[0], source.folders, leap=True, progress=lambda *_: None)
    return set(simulated.records.requests["reason"])


def test_a_model_that_nobody_serves_fails_its_requests(tmp_path: Path) -> None:
    assert reasons(tmp_path, "no-such-model") == {"", "no pool serves the model no-such-model"}


def test_a_served_model_is_found(tmp_path: Path) -> None:
    assert reasons(tmp_path, "llama-3.1-8b") == {""}
