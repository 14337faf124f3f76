"""requests.parquet, series.parquet, steps.parquet: records of all cells of a run, a file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.state.records import GRAMMAR_COLUMNS, REQUEST_COLUMNS, SERIES_COLUMNS, CellRecords
from .files import replacing


def write_requests(path: Path, cells: Sequence[CellRecords]) -> None:
    """One row a request, ``cell`` first; one row group a cell; the same cells, the same bytes.

    Raises:
        OSError: the file could not be written; then there is none (or still the former one).
    """
    has_grammars = any(name in cell.requests for name in GRAMMAR_COLUMNS for cell in cells)
    columns = REQUEST_COLUMNS | (GRAMMAR_COLUMNS if has_grammars else {})
    _write(path, [(cell.name, cell.requests) for cell in cells], columns)


def write_series(path: Path, cells: Sequence[CellRecords]) -> None:
    """One row a sample and replica, ``cell`` first; otherwise as `write_requests`."""
    _write(path, [(cell.name, cell.series) for cell in cells], SERIES_COLUMNS)


def write_steps(path: Path, cells: Sequence[CellRecords]) -> None:
    """One row a step and replica of the cells that were traced; otherwise as `write_requests`."""
    traced = [(cell.name, cell.steps) for cell in cells if cell.steps is not None]
    types = {name: values.dtype for name, values in traced[0][1].items()}
    columns = {name: "str" if dtype.kind == "O" else dtype.name for name, dtype in types.items()}
    _write(path, traced, columns)


def _write(
    path: Path, parts: list[tuple[str, dict[str, NDArray[Any]]]], columns: dict[str, str]
) -> None:
    import pyarrow.parquet

    pa: Any = pyarrow  # it ships without types
    names = pa.array([name for name, _ in parts], pa.string())
    cell_type = pa.dictionary(pa.int32(), pa.string())
    fields = [
        pa.field(name, pa.string() if dtype == "str" else pa.from_numpy_dtype(np.dtype(dtype)))
        for name, dtype in columns.items()
    ]
    schema = pa.schema([pa.field("cell", cell_type), *fields])
    with (
        replacing(path) as partial,
        pa.parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for i, (_, arrays) in enumerate(parts):
            none = np.full(len(arrays[fields[0].name]), -1)
            index = np.full(len(none), i, dtype=np.int32)
            cell = pa.DictionaryArray.from_arrays(index, names)
            rest = [pa.array(arrays.get(field.name, none), field.type) for field in fields]
            writer.write_table(pa.table([cell, *rest], schema=schema))
