"""requests.parquet and series.parquet: whole, deterministic, or not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infersim.reports.files import replacing, write_text
from infersim.reports.tables import write_requests, write_series
from infersim.sim.state.records import GRAMMAR_COLUMNS, REQUEST_COLUMNS, SERIES_COLUMNS, CellRecords


def test_requests_come_back(grid: list[CellRecords], tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    write_requests(path, grid)
    table = pq.read_table(path)
    assert table.column_names == ["cell", *REQUEST_COLUMNS]
    assert table.num_rows == sum(len(cell.requests["status"]) for cell in grid)
    assert pa.types.is_dictionary(table.schema.field("cell").type)
    assert table["cell"].to_pylist()[0] == grid[0].name
    last = table.filter(pa.compute.equal(table["cell"].cast("string"), grid[-1].name))
    for name in ("finish_ps", "preemptions", "first_miss"):
        assert last[name].to_pylist() == grid[-1].requests[name].tolist()
    assert str(table.schema.field("turn").type) == "int32"
    assert set(table.schema.metadata or {}) <= {b"ARROW:schema"}, "nothing of this machine"


def test_a_column_that_only_some_cells_have(grid: list[CellRecords], tmp_path: Path) -> None:
    """Waits for grammars: −1 in cells without any, and no column where no cell has one."""
    path, two = tmp_path / "requests.parquet", grid[:2]
    waits = np.arange(len(two[1].requests["status"]))
    two[1] = replace(two[1], requests={**two[1].requests, "grammar_ps": waits})
    write_requests(path, two)
    table = pq.read_table(path)
    assert table.column_names == ["cell", *REQUEST_COLUMNS, *GRAMMAR_COLUMNS]
    without = [-1] * len(two[0].requests["status"])
    assert table["grammar_ps"].to_pylist() == [*without, *waits.tolist()]


def test_series_come_back(grid: list[CellRecords], tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    write_series(path, grid[:2])
    table = pq.read_table(path)
    assert table.column_names == ["cell", *SERIES_COLUMNS]
    expected = np.concatenate([cell.series["waiting"] for cell in grid[:2]])
    assert table["waiting"].to_pylist() == expected.tolist()


def test_the_same_records_give_the_same_file(grid: list[CellRecords], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_requests(tmp_path / name, grid[:3])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_cell_without_requests_is_no_error(
    make_cell: Callable[..., CellRecords], tmp_path: Path
) -> None:
    cell = make_cell(sessions=1, turns=1)
    cell.requests = {name: column[:0] for name, column in cell.requests.items()}
    write_requests(tmp_path / "r", [cell])
    assert pq.read_table(tmp_path / "r").num_rows == 0


def test_a_failed_write_leaves_the_former_file_and_nothing_else(
    grid: list[CellRecords], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "requests.parquet"
    write_requests(path, grid[:1])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_requests(path, grid[:2])
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["requests.parquet"]


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(UnicodeEncodeError), replacing(path) as partial:
        partial.write_text("half \ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "é\n"
    assert list(tmp_path.iterdir()) == [path]
