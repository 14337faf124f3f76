"""Distributions of samples, and JSON that is finite and the same bytes every time."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...sim.state.records import GapHistogram

Floats: TypeAlias = NDArray[np.float64]

#: Samples from which a percentile has a two-sided 95 % order-statistic interval: p^n <= 0.025.
MIN_SAMPLES = {"p50": 6, "p90": 36, "p95": 72, "p99": 368}
_SIGNIFICANT_DIGITS = 9


def seconds(ps: NDArray[Any]) -> Floats:
    """Integer picoseconds as float seconds."""
    return ps.astype(np.float64) / 1e12


def unsupported(n: int) -> list[str]:
    """The percentiles that *n* samples cannot carry (`MIN_SAMPLES`)."""
    return [name for name, least in MIN_SAMPLES.items() if n < least]


def distribution(values: Floats) -> dict[str, Any]:
    """Mean, population standard deviation, percentiles (numpy linear) and n; None when empty."""
    if not len(values):
        return _distribution(0, None, None, None, dict.fromkeys(MIN_SAMPLES))
    cuts = np.percentile(values, [float(name[1:]) for name in MIN_SAMPLES])
    return _distribution(
        len(values),
        float(values.mean()),
        float(values.std()),
        float(values.max()),
        {name: float(cut) for name, cut in zip(MIN_SAMPLES, cuts, strict=True)},
    )


def gap_distribution(gaps: GapHistogram) -> dict[str, Any]:
    """The same for pooled gaps between tokens; quantiles to 0.1 %, no deviation is kept."""
    n = gaps.samples
    if not n:
        return distribution(np.zeros(0))
    cuts = {name: gaps.quantile_s(float(name[1:]) / 100) for name in MIN_SAMPLES}
    return _distribution(n, gaps.mean_s(), None, gaps.quantile_s(1.0), cuts)


def _distribution(
    n: int, mean: float | None, std: float | None, top: float | None, cuts: dict[str, Any]
) -> dict[str, Any]:
    return {"mean": mean, **cuts, "max": top, "std": std, "n": n, "unsupported": unsupported(n)}


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None when *whole* is 0."""
    return part / whole if whole else None


def finite(value: Any) -> Any:
    """The same structure in plain Python types: floats to 9 digits, None for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return float(f"{number:.{_SIGNIFICANT_DIGITS}g}") if math.isfinite(number) else None
    return value if value is None else str(value)


def dumps(summary: dict[str, Any]) -> str:
    """JSON text of *summary*: keys in the order they were built, the same bytes every time."""
    return json.dumps(finite(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
