"""What the shipped comparison of ways for KV shows, on a tenth of its requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infersim.scenarios import build, grid, load
from infersim.sim.state.records import CellRecords


@pytest.fixture(scope="module")
def cells() -> dict[str, CellRecords]:
    source = load.read("pd_variants", ["limits.requests=200"])
    return {
        cell.name: build.simulate_cell(
            cell, source.folders, leap=True, progress=lambda *_: None
        ).records
        for cell in grid.cells(source)[1]
    }


def exposed(records: CellRecords) -> Any:
    return np.asarray(records.requests["transfer_ps"]).mean()


def test_every_request_is_answered_and_every_byte_counted(cells: dict[str, CellRecords]) -> None:
    blocks = -(-cells["pull"].requests["prompt_tokens"] // 16)
    for name, records in cells.items():
        rows = records.requests
        assert (rows["status"] == "finished").all()
        assert len(rows["status"]) == 200
        moved = rows["transfer_bytes"]
        assert records.totals["link_bytes"] == moved.sum()
        if name.startswith("pu"):
            assert moved.tolist() == (blocks * 16 * 131_072).tolist()


def test_the_earlier_it_leaves_the_less_is_waited_for(cells: dict[str, CellRecords]) -> None:
    whole, blocks, layers = (exposed(cells[f"push{way}"]) for way in ("", " blocks", " layers"))
    assert layers < 0.6 * blocks
    assert blocks < 0.8 * whole


def test_short_prompts_stay(cells: dict[str, CellRecords]) -> None:
    rows = cells["conditional"].requests
    assert ((rows["transfer_bytes"] == 0) == (rows["prompt_tokens"] <= 512)).all()


def test_failures_and_changes_are_counted(cells: dict[str, CellRecords]) -> None:
    failing, layers = cells["one in ten transfers fails"], cells["push layers"]
    assert 8 <= failing.totals["failed_transfers"] <= 36
    assert failing.totals["link_bytes"] > layers.totals["link_bytes"]
    assert "role_switches" in cells["roles change"].totals
    assert not {"failed_transfers", "role_switches"} & layers.totals.keys()
