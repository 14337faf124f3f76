"""Service-level objectives, goodput and money."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...policies.errors import InputError, UnknownNameError
from ...sim.state.records import CellRecords
from .stats import Floats, ratio
from .window import Window

#: The metrics that a limit can be set on.
SLO_METRICS = ("ttft_s", "tpot_s", "e2e_s")
#: Share of the arrived requests that must keep within a limit for it to be called met.
SLO_TARGET = 0.99


def latencies_s(window: Window) -> dict[str, Floats]:
    """ttft_s, tpot_s and e2e_s of every finished request; TPOT of a single token is 0."""
    return {
        "ttft_s": window.between_s("arrival_ps", "first_token_ps"),
        "tpot_s": np.nan_to_num(window.tpot_s(), nan=0.0),
        "e2e_s": window.between_s("arrival_ps", "finish_ps"),
    }


def goals(cell: CellRecords, window: Window) -> dict[str, Any]:
    """goodput_rps, slo_attainment, slo_met and slo: one entry a limit; None without limits.

    A request that failed or was shed misses every limit.

    Raises:
        UnknownNameError: a limit on something that is not in `SLO_METRICS`.
    """
    if not cell.slo:
        return {"goodput_rps": None, "slo_attainment": None, "slo_met": None, "slo": {}}
    values = latencies_s(window)
    good = np.ones(int(window.finished.sum()), dtype=np.bool_)
    by_metric: dict[str, Any] = {}
    for metric, limit_s in cell.slo.items():
        if metric not in values:
            raise UnknownNameError("slo metric", metric, SLO_METRICS, where=f"slo.{metric}")
        within = values[metric] <= limit_s
        good &= within
        share = ratio(int(within.sum()), len(window))
        met = share is not None and share >= SLO_TARGET
        by_metric[metric] = {"limit_s": limit_s, "attainment": share, "met": met}
    return {
        "goodput_rps": window.per_second(int(good.sum())),
        "slo_attainment": ratio(int(good.sum()), len(window)),
        "slo_met": all(entry["met"] for entry in by_metric.values()),
        "slo": by_metric,
    }


def gpus(cell: CellRecords) -> int:
    """GPUs of all pools: replicas x tensor parallel x pipeline parallel x data-parallel ranks."""
    degrees = ("replicas", "tp", "pp", "dp")
    return sum(prod(int(pool.get(key, 1)) for key in degrees) for pool in cell.capacity)


def usd_per_million_output_tokens(cell: CellRecords, output_tokens_per_s: float) -> float | None:
    """US dollars for a million output tokens; None without a price or output.

    Raises:
        InputError: prices without ``gpu_hour_usd``.
    """
    if not cell.prices:
        return None
    if "gpu_hour_usd" not in cell.prices:
        found = ", ".join(sorted(cell.prices))
        raise InputError(f"prices need gpu_hour_usd, found: {found}", where="prices")
    per_s = cell.prices["gpu_hour_usd"] * cell.prices.get("gpus", gpus(cell)) / 3600
    return ratio(per_s * 1e6, output_tokens_per_s)
