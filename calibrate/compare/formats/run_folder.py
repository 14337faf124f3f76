"""The folder of ``infersim run`` or ``infersim execute``: one `Measured` for each of its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....policies.errors import InputError
from ..figures import STATISTICS
from ..measured import Figures, Floats, Measured, Requests, Series, in_order
from .values import json_of, text_of

#: how the source of a run's step times begins when a real clock took them
MEASURED = "measured: "
SUMMARY = "summary.json"
#: keys of a pool that are compared, beside those of its engine
SETTINGS = ("gpu", "model", "dtype", "kv_dtype", "tp", "pp", "block_size")
Table = dict[str, NDArray[Any]]


def load(folder: Path) -> list[Measured]:
    """Read every cell of the run.

    Raises:
        InputError: a file of it is absent or damaged.
    """
    summary = json_of(folder / SUMMARY)
    cells = summary.get("cells") if isinstance(summary, dict) else None
    if not isinstance(cells, list) or not cells:
        raise InputError("no cells in the summary of a run", where=str(folder / SUMMARY))
    requests = _table(folder / "requests.parquet")
    series = _table(folder / "series.parquet", needed=False)
    steps = _table(folder / "steps.parquet", needed=False)
    notes: tuple[str, ...] = ()
    if "incomplete" in summary:
        notes = ("the run is incomplete: some of its cells did not end",)
    timed_by, format = _clock(summary)
    settings = _settings(folder / "scenario.yaml")
    found = []
    for cell in cells:
        try:
            name, metrics = cell["name"], cell["metrics"]
            mine = _of(requests, name)
            kv_blocks = metrics["kv_blocks"]
            rows, unfinished = from_columns(mine)
            varied = {key.removeprefix("cluster.") for key in cell.get("params", {})}
            fixed = {key: value for key, value in settings.items() if key not in varied}
        except (KeyError, TypeError) as error:
            message = f"not what infersim writes: {type(error).__name__} {error}"
            raise InputError(message, where=str(folder)) from None
        found.append(
            Measured(
                name=folder.name,
                format=format,
                requests=rows,
                given=_given(metrics),
                series=series_of(_of(series, name), kv_blocks) if series else None,
                steps=_of(steps, name) if steps else None,
                kv_blocks=kv_blocks,
                block_size=fixed.get("block_size"),
                settings=fixed,
                unfinished=unfinished,
                cell=name,
                timed_by=timed_by,
                notes=notes,
            )
        )
    return found


def _clock(summary: dict[str, Any]) -> tuple[str, str]:
    """The cost model that gave the run its times ("" for none), and what kind of run it was."""
    origin = summary.get("provenance")
    sources = origin.get("cost_source") if isinstance(origin, dict) else None
    found = "; ".join(map(str, sources)) if isinstance(sources, list) else "not stated"
    if found.startswith(MEASURED):
        return "", "executor, real clock"
    return found, "executor, virtual clock" if "executor" in found else "simulated run"


def _settings(path: Path) -> dict[str, Any]:
    """How all pools of the resolved scenario are set; empty where it is absent.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return {}
    import yaml

    try:
        data = yaml.safe_load(text_of(path))
        cluster = data["cluster"]
        rows = [flat(pool) for pool in cluster.get("pools", [cluster])]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"no scenario: {error}", where=str(path)) from None
    first, *others = rows
    return {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}


def flat(pool: dict[str, Any]) -> dict[str, Any]:
    """The settings of a resolved pool that decide or price steps, by dotted key."""
    found = {key: pool[key] for key in SETTINGS if key in pool}
    return found | {f"engine.{key}": value for key, value in pool["engine"].items()}


def from_columns(columns: Table) -> tuple[Requests, int]:
    """`Requests` from columns as in `sim.state.records`, and how many did not finish."""
    done = columns["status"] == "finished"
    found = {name: columns[name][done] for name in columns}

    def since_arrival(name: str) -> Floats:
        return np.asarray((found[name] - found["arrival_ps"]) / 1e12, dtype=np.float64)

    requests = in_order(
        found["arrival_ps"] / 1e12,
        since_arrival("first_token_ps"),
        since_arrival("finish_ps"),
        found["prompt_tokens"],
        found["output_tokens"],
        found["hit_tokens"],
    )
    return requests, int((~done).sum())


def series_of(columns: Table, kv_blocks: int) -> Series | None:
    """Samples summed over replicas, each holding its last one; None without samples."""
    times = np.unique(columns["t_ps"])
    if len(times) < 2:
        return None
    sums = {
        name: np.zeros(len(times), dtype=np.float64)
        for name in ("running", "waiting", "kv_used_blocks")
    }
    for replica in np.unique(columns["replica"]):
        mine = columns["replica"] == replica
        at = np.searchsorted(columns["t_ps"][mine], times, "right") - 1
        for name, total in sums.items():
            total += np.where(at >= 0, columns[name][mine][np.maximum(at, 0)], 0)
    kv = sums["kv_used_blocks"] / max(kv_blocks, 1)
    return Series(times / 1e12, sums["running"], sums["waiting"], kv)


def _given(metrics: dict[str, Any]) -> Figures:
    """Gaps between tokens and counts, which the tables do not hold."""
    found: Figures = {}
    itl = metrics.get("itl_s") or {}
    if itl.get("n"):
        found["itl_s"] = {name: float(itl[name]) for name in (*STATISTICS, "n")}
    for name in ("preemptions", "steps"):
        if metrics.get(name) is not None:
            found[name] = {"value": float(metrics[name])}
    return found


def _of(table: Table | None, cell: str) -> Table:
    """The rows of *cell*; all of them in a table without cells."""
    assert table is not None
    if "cell" not in table:
        return table
    mine = table["cell"] == cell
    return {name: column[mine] for name, column in table.items() if name != "cell"}


def _table(path: Path, *, needed: bool = True) -> Table | None:
    """A parquet file by column; None where one that is not *needed* is absent."""
    if not path.is_file():
        if not needed:
            return None
        raise InputError(f"no {path.name} beside {SUMMARY}", where=str(path.parent))
    import pyarrow.parquet

    pa: Any = pyarrow  # it ships without types
    try:
        table = pa.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"damaged: {error}", where=str(path)) from None
    found = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        found[name] = np.asarray(column.to_numpy(zero_copy_only=False))
    return found
