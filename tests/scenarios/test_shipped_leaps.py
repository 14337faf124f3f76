"""Leaps on and off give equal records on every shipped scenario, to the last bit."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from infersim.scenarios import build, grid, load

ROOT = Path(__file__).parents[2]


def benchmark() -> ModuleType:
    spec = spec_from_file_location("leaps", ROOT / "benchmarks" / "leaps.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTHING_REPEATS = {"prompt_order"}  #: every answer is one token


@pytest.mark.parametrize("name", load.shipped())
@pytest.mark.parametrize("which", [0, -1], ids=["first cell", "last cell"])
def test_records_are_equal(name: str, which: int) -> None:
    source = load.read(name, ["limits.requests=200"])
    _, cells = grid.cells(source)
    if which and len(cells) == 1:
        pytest.skip("the scenario has one cell")
    leapt, stepped = (
        build.simulate_cell(cells[which], source.folders, leap=leap, progress=lambda *_: None)
        for leap in (True, False)
    )
    assert benchmark().differences(leapt.records, stepped.records) == []
    assert (leapt.effort.leapt_steps > 0) == (name not in NOTHING_REPEATS)
    assert stepped.effort.leapt_steps == 0
