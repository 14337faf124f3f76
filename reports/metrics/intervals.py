"""How far the figures may be off because the step times are: percentiles over perturbed runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..text import span

LOW, HIGH = 5, 95  #: percentiles of the runs
_LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
_STATS = ("mean", "p50", "p90", "p95", "p99")
_SHOWN = (("ttft_s", "TTFT", "p50"), ("tpot_s", "TPOT", "mean"), ("e2e_s", "E2E", "mean"))
_RATES = (
    "output_tokens_per_s",
    "total_tokens_per_s",
    "goodput_rps",
    "hit_rate",
    "preemptions",
    "simulated_s",
)


def intervals(samples: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """[5th, 95th percentile] of each figure over the metrics of a cell's perturbed runs.

    A figure that a run does not have has no interval. None without any run.
    """
    if not samples:
        return None
    found: dict[str, Any] = {"samples": len(samples)}
    for name in _LATENCIES:
        found[name] = {stat: _spread([m[name][stat] for m in samples]) for stat in _STATS}
    for name in _RATES:
        found[name] = _spread([m[name] for m in samples])
    return found


def spread(found: dict[str, Any]) -> str:
    """What `intervals` found, in a line: medians, means and the rate of output."""
    parts = [
        f"{name} {stat} {span(*found[metric][stat])}"
        for metric, name, stat in _SHOWN
        if found[metric][stat]
    ]
    if found["output_tokens_per_s"]:
        low, high = found["output_tokens_per_s"]
        parts.append(f"output {low:,.0f}–{high:,.0f} tokens/s")
    head = f"p{LOW}–p{HIGH} of {found['samples']} runs with perturbed step times"
    return f"{head}: {' · '.join(parts)}"


def _spread(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    low, high = np.percentile(known, [LOW, HIGH])
    return [float(low), float(high)]
