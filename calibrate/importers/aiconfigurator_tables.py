"""Parquet tables of aiconfigurator: where they lie, and their rows as points of our kinds.

They are found in the tree of its package, ``data/h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet``, or
in one folder with the tree in the names, ``h100_sxm__gemm_vllm_0.24.0_gemm_perf.parquet``.
Latencies are milliseconds of one launch; heads are those of one GPU; ``step`` is the KV cached
before; message sizes count elements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...policies.errors import InputError
from ..fit.physics import Array, Columns

_HALF_BYTES = 2
_KV_BYTES = {"bfloat16": 2.0, "fp8": 1.0}
_WEIGHT_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0}
_MOE = {
    "num_tokens": "tokens",
    "hidden_size": "hidden",
    "inter_size": "inter",
    "num_experts": "experts",
    "topk": "top_k",
    "moe_tp_size": "tp",
    "moe_ep_size": "ep",
}
_HEADS = {"num_heads": "heads", "num_key_value_heads": "kv_heads", "head_dim": "head_dim"}


class Points(NamedTuple):
    """The rows of one table that are of one number format.

    Attributes:
        kind: of `fit.fit_op`.
        label: what was measured, by which version of what, in which file.
        device: as the driver calls it, "" where the table does not say.
    """

    kind: str
    columns: Columns
    seconds: Array
    label: str
    device: str


class _Rows(NamedTuple):
    data: Any  # a pandas.DataFrame
    path: Path
    label: str


@dataclass(frozen=True)
class Tables:
    """The tables of one system and engine below a folder. A method gives None for a missing table.

    Attributes:
        system: as aiconfigurator calls a GPU, e.g. "h100_sxm".
        engine: "vllm", "sglang" or "trtllm".
        version: of the engine; "" takes the newest of each table.
    """

    folder: Path
    system: str
    engine: str = "vllm"
    version: str = ""

    def systems(self) -> list[str]:
        """Every system that the folder has tables of."""
        found = set()
        for path in self._paths():
            flat, is_flat, _ = path.name.partition("__")
            found.add(flat if is_flat else path.parts[-5] if len(path.parts) > 5 else "")
        return sorted(found - {""})

    def of(self, system: str) -> Tables:
        """The tables of another system in the same folder."""
        return replace(self, system=system)

    def gemm(self, dtype: str) -> Points | None:
        """Matrix products of weights in *dtype*: "bfloat16", "fp8" or "fp8_block"."""
        rows = self._rows("gemm", ("gemm_dtype", "m", "n", "k"))
        if rows is None:
            return None
        data = _only(rows, "gemm_dtype", dtype)
        columns = _renamed(data, {name: name for name in ("m", "n", "k")})
        columns["weight_bytes"] = np.full(len(data), _WEIGHT_BYTES[dtype])
        return _points("gemm", columns, data, rows)

    def decode(self, kv_dtype: str, head_dim: int) -> Points | None:
        """Attention of one token a sequence, over a cache in *kv_dtype*."""
        rows = self._attention("generation_attention", kv_dtype, head_dim)
        if rows is None:
            return None
        columns = _renamed(rows.data, {"batch_size": "batch", "step": "context", **_HEADS})
        columns["context"] += 1
        columns["kv_bytes"] = np.full(len(rows.data), _KV_BYTES[kv_dtype])
        return _points("decode_attention", columns, rows.data, rows)

    def prefill(self, kv_dtype: str, head_dim: int) -> Points | None:
        """Attention of causal chunks, whose KV is in *kv_dtype*."""
        rows = self._attention("context_attention", kv_dtype, head_dim)
        if rows is None:
            return None
        names = {"batch_size": "batch", "isl": "chunk", "step": "prefix", **_HEADS}
        columns = _renamed(rows.data, names)
        columns["kv_bytes"] = np.full(len(rows.data), _KV_BYTES[kv_dtype])
        return _points("prefill_attention", columns, rows.data, rows)

    def moe(self, dtype: str) -> Points | None:
        """Fused experts with weights in *dtype*."""
        rows = self._rows("moe", ("moe_dtype", "distribution", *_MOE))
        if rows is None:
            return None
        data = _only(rows, "moe_dtype", dtype)
        columns = _renamed(data, _MOE)
        columns["skew"] = np.array([_skew(name, rows.path) for name in data["distribution"]])
        columns["weight_bytes"] = np.full(len(data), _WEIGHT_BYTES[dtype])
        return _points("moe", columns, data, rows)

    def all_reduce(self) -> Points | None:
        """All-reduces: the engine's own in a CUDA graph, or NCCL's where it has no table."""
        needed = ("num_gpus", "message_size")
        rows = self._rows("custom_allreduce", needed)
        if rows is not None:
            data = rows.data
            if "backend" in data:
                data = data[data["backend"].astype(str).str.endswith("_graph")]
        else:
            nccl = replace(self, engine="nccl", version="")
            rows = nccl._rows("nccl", ("op_name", "nccl_dtype", *needed))
            if rows is None:
                return None
            reduces = rows._replace(data=_only(rows, "op_name", "all_reduce"))
            data = _only(reduces, "nccl_dtype", "half")
        columns = _renamed(data, {"message_size": "bytes", "num_gpus": "gpus"})
        columns["bytes"] *= _HALF_BYTES
        return _points("all_reduce", columns, data, rows)

    def _attention(self, table: str, kv_dtype: str, head_dim: int) -> _Rows | None:
        needed = ("batch_size", "isl", "step", "attn_dtype", "kv_cache_dtype")
        rows = self._rows(table, (*needed, *_HEADS))
        if rows is None:
            return None
        wanted = {"attn_dtype": "bfloat16", "kv_cache_dtype": kv_dtype, "head_dim": head_dim}
        if "window_size" in rows.data:  # older tables have no windows
            wanted["window_size"] = 0
        for column, value in wanted.items():
            rows = rows._replace(data=_only(rows, column, value))
        return rows

    def _rows(self, table: str, needed: tuple[str, ...]) -> _Rows | None:
        """The rows of one version of a table; None if there is no such table."""
        found = self._versions(table)
        if not found:
            return None
        if self.version and self.version not in found:
            raise InputError(
                f"no {table} table of {self.engine} {self.version} for {self.system}",
                where=str(self.folder),
                help=f"there are: {', '.join(sorted(found, key=_order))}",
            )
        chosen = self.version or max(found, key=_order)
        return _Rows(_read(found[chosen], needed), found[chosen], f"{self.engine} {chosen}")

    def _versions(self, table: str) -> dict[str, Path]:
        pattern = re.compile(
            rf"(?:^|/){re.escape(self.system)}(?:/|__)(?:[^/]*[/_])?{re.escape(self.engine)}[/_]"
            rf"(?P<version>[^/_]+)[/_]{table}_perf\.parquet$"
        )
        return {m["version"]: p for p in self._paths() if (m := pattern.search(p.as_posix()))}

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            raise InputError(
                f"no folder {self.folder}", help="it holds aiconfigurator's parquet tables"
            )
        return sorted(self.folder.resolve().rglob("*_perf.parquet"))


def _read(path: Path, needed: tuple[str, ...]) -> Any:
    import pandas as pd

    try:
        data = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"it cannot be read: {error}", where=str(path)) from None
    for name in (*needed, "latency"):
        if name not in data:
            raise InputError(
                f"no column {name}; found {', '.join(map(str, data.columns))}", where=str(path)
            )
    times = data["latency"].to_numpy(float)
    if not (np.isfinite(times) & (times > 0)).all():
        raise InputError("a latency is not above 0", where=str(path))
    return data


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Versions in order: numbers by value, anything else before them."""
    parts = re.split(r"[.\-]", version)
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts)


def _only(rows: _Rows, column: str, wanted: object) -> Any:
    data = rows.data[rows.data[column] == wanted]
    if not len(data):
        there = ", ".join(sorted({str(value) for value in rows.data[column]}))
        raise InputError(
            f"no row with {column} {wanted}", where=str(rows.path), help=f"there are: {there}"
        )
    return data


def _renamed(data: Any, names: dict[str, str]) -> Columns:
    return {ours: np.array(data[theirs], float) for theirs, ours in names.items()}


def _skew(distribution: str, path: Path) -> float:
    """0 for "balanced", else the exponent at the end of "power_law_1.2"."""
    if distribution == "balanced":
        return 0.0
    try:
        return float(distribution.rpartition("_")[2])
    except ValueError:
        raise InputError(f'unknown distribution "{distribution}"', where=str(path)) from None


def _points(kind: str, columns: Columns, data: Any, rows: _Rows) -> Points:
    device = str(data["device"].iloc[0]) if "device" in data else ""
    seconds = np.array(data["latency"], float) / 1e3
    return Points(kind, columns, seconds, f"{rows.label}, {rows.path.name}", device)
