"""The measured serving runs that `measured_serving` compares with, in our terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from infersim.scenarios.catalog.load import gpu as gpu_named
from infersim.scenarios.catalog.load import model as model_named


class Row(NamedTuple):
    """One measured run, in our terms.

    Attributes:
        tpot_s, ttft_s: measured; `ttft_s` is NaN where it is not to be compared.
        shortest: lengths are uniform from this share of the nominal ones.
    """

    number: int
    source: str
    grade: str
    model: str
    gpu: str
    tp: int
    ep: int
    dtype: str
    gemm_dtype: str
    kv_dtype: str
    is_async: bool
    shortest: float
    input_tokens: int
    output_tokens: int
    clients: int
    tpot_s: float
    ttft_s: float

    @property
    def profile(self) -> str:
        """Name of the profile that it needs."""
        kind = self.gemm_dtype or self.dtype
        return f"{self.model}-{self.gpu}-tp{self.tp}-ep{self.ep}-{kind}-kv_{self.kv_dtype}"


def rows_of(path: Path) -> tuple[list[Row], list[tuple[int, str, str]]]:
    """The rows that can be run, and (line, source, reason) of those that cannot."""
    data = pd.read_csv(path)
    wanted = (
        (data["engine"].str.lower() == "vllm")
        & data["model"].str.contains("llama|qwen", case=False)
        & data["gpu"].str.contains("H100|H200")
    )
    found, left = [], []
    for number, line in data[wanted].iterrows():
        row = _row(int(number), line)
        if isinstance(row, Row):
            found.append(row)
        else:
            left.append((int(number), str(line["source"]), row))
    return found, left


def _row(number: int, line: Any) -> Row | str:
    """The row, or why it cannot be run."""
    notes = str(line["notes"])
    grade = notes.partition("quality=")[2].partition(" ")[0]
    if not notes.startswith("agg"):
        return "neither tensor parallelism nor the spread of lengths is stated"
    if np.isnan(line["concurrency"]) or np.isnan(line["tpot_ms_mean"]):
        return "no concurrency or no TPOT"
    name = str(line["model"]).rpartition("/")[2].lower()
    model = model_named(name.replace("-instruct", "").removesuffix("-fp8"))
    is_ci = grade.startswith("A")
    has_fp8_kv = is_ci or str(line["model"]).startswith("nvidia/")
    dtype = "bf16" if "bf16" in line["dtype"] else str(line["dtype"])
    is_blockwise = dtype == "fp8" and "qwen" in name
    return Row(
        number,
        str(line["source"]).rpartition("#")[2],
        grade,
        model.name,
        gpu_named(str(line["gpu"])).name,
        int(line["tp"]),
        max(int(line["ep"]), 1),
        dtype,
        "fp8_block" if is_blockwise else "",
        "fp8" if has_fp8_kv else "bf16",
        is_ci,
        0.8 if is_ci else 1.0,
        int(line["input_len"]),
        int(line["output_len"]),
        int(line["concurrency"]),
        line["tpot_ms_mean"] / 1e3,
        line["ttft_ms_mean"] / 1e3 if is_ci else float("nan"),
    )


def floor_s(row: Row) -> float:
    """TPOT of a perfect GPU: weights and KV at peak bandwidth, prompts at peak arithmetic."""
    model, chip = model_named(row.model), gpu_named(row.gpu)
    weights = model.weight_bytes(row.dtype, row.tp)
    active = weights * model.active_parameters / model.parameters
    a_token = model.kv_bytes_per_token(row.kv_dtype, row.tp)
    request = (row.input_tokens + row.output_tokens / 2) * a_token
    kv = min(row.clients * request, chip.memory_bytes - weights)  # the others wait
    reading = (active + kv) / chip.memory_bytes_per_s
    prompt = 2 * model.active_parameters * row.input_tokens / row.tp / chip.flops(row.dtype)
    running = kv / request
    return row.shortest * (reading + running * prompt / row.output_tokens)
