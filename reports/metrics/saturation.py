"""How close to saturation a cell ran: STABLE, BACKLOGGED or OVERLOADED, with the evidence.

Judged over the second half of the span of arrivals (after the warm-up), from the exact count of
requests that had arrived and were not yet scheduled. The three words are BLIS's; the rule is ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .stats import ratio

_SAMPLES = 256
_LEAST_GROWTH = 5.0  # requests: below it a growing queue is chance
_GROWTH_SHARE = 0.05  # of the arrivals of the window
_LEAST_ARRIVALS = 20  # fewer cannot show a trend


def saturation(columns: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """verdict and why, then arrivals_per_s, completions_per_s, queue_slope_per_s and the rest.

    Args:
        columns: the measured requests (`Window.columns`).
    """
    arrivals = np.sort(columns["arrival_ps"])
    if len(arrivals) < 2 or arrivals[0] == arrivals[-1]:
        return _without_span(len(arrivals))
    start, end = int(arrivals[0] + arrivals[-1]) // 2, int(arrivals[-1])
    length_s = (end - start) / 1e12
    times = np.linspace(start, end, _SAMPLES)
    waiting = _inside(arrivals, _left_queue(columns), times)
    slope_per_s = float(np.polyfit((times - start) / 1e12, waiting, 1)[0])
    arrived = int((arrivals > start).sum())
    leaving = _left_system(columns)
    left = int(((leaving > start) & (leaving <= end)).sum())
    waits = float((waiting > 0).mean())
    verdict, why = _verdict(slope_per_s * length_s, arrived, left, waits)
    return {
        "verdict": verdict,
        "why": why,
        "from_s": start / 1e12,
        "to_s": end / 1e12,
        "arrivals": arrived,
        "completions": left,
        "arrivals_per_s": ratio(arrived, length_s),
        "completions_per_s": ratio(left, length_s),
        "waiting_mean": float(waiting.mean()),
        "queue_slope_per_s": slope_per_s,
        "share_of_time_waiting": waits,
    }


def _left_queue(columns: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """When each request stopped waiting: scheduled, or else gone."""
    scheduled = columns["scheduled_ps"]
    return np.sort(np.where(scheduled >= 0, scheduled, _left_system(columns)))


def _left_system(columns: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """When each request was gone; one that was refused at once leaves when it arrives."""
    gone: NDArray[Any] = np.maximum(columns["finish_ps"], columns["arrival_ps"])
    return gone


def _inside(starts: NDArray[Any], ends: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
    """How many (start, end) intervals hold each of *times*; both arrays sorted."""
    return np.searchsorted(starts, times, "right") - np.searchsorted(ends, times, "right")


def _verdict(growth: float, arrived: int, left: int, waits: float) -> tuple[str, str]:
    if arrived >= _LEAST_ARRIVALS and growth > max(_LEAST_GROWTH, _GROWTH_SHARE * arrived):
        return "OVERLOADED", f"queue +{growth:.0f} while {arrived} arrived and {left} left"
    often = f"requests waited {waits * 100:.0f} % of the time"
    if waits > 0.5:
        return "BACKLOGGED", f"{often}, the queue did not keep growing"
    return "STABLE", often


def _without_span(arrived: int) -> dict[str, Any]:
    """Nothing, one request, or all at the same instant: there is no rate to compare with."""
    verdict = "BACKLOGGED" if arrived > 1 else "STABLE"
    why = f"all {arrived} requests arrived at one instant" if arrived > 1 else "one request or none"
    blank = dict.fromkeys(
        ("arrivals_per_s", "completions_per_s", "waiting_mean", "queue_slope_per_s"), None
    )
    counts = {"from_s": None, "to_s": None, "arrivals": arrived, "completions": None}
    return {"verdict": verdict, "why": why, **counts, **blank, "share_of_time_waiting": None}
