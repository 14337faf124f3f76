"""Which steps of a run had the host's pace of the calibration, by fixed work beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..executor.pace import BAND

Table = dict[str, NDArray[Any]]
Flags = NDArray[np.bool_]


class Pace(NamedTuple):
    """The host of a run against the host of the calibration.

    Attributes:
        median, p95: times that it took for the same work, over the steps.
        alike: steps that had the pace of the calibration.
        steps: all.
    """

    median: float
    p95: float
    alike: int
    steps: int

    def told(self) -> str:
        """In a sentence."""
        return (
            f"the host took {self.median:.2f} times as long for the same work as in the "
            f"calibration (median; p95 {self.p95:.2f}); {self.alike:,} of {self.steps:,} steps "
            "had its pace"
        )


def ratios(steps: Table, pace_s: float) -> NDArray[np.float64]:
    """Of each step of one replica, in order: the slower probe of both its ends over *pace_s*.

    NaN where one of them was not taken (on a GPU, and before the first step), or where they
    differ: the host's speed changed within the step.
    """
    probes = steps.get("pace_ps")
    if probes is None or not pace_s:
        return np.full(len(steps["step"]), np.nan)
    known = np.where(probes > 0, probes / 1e12 / pace_s, np.nan)
    before = np.concatenate([[np.nan], known[:-1]])[: len(known)]
    slower, faster = np.maximum(known, before), np.minimum(known, before)
    return np.where(slower <= BAND * faster, slower, np.nan)


def at_pace(ratio: NDArray[np.float64]) -> Flags:
    """Steps at the calibration's pace: a host that is faster now is another one as well."""
    return (ratio <= BAND) & (ratio >= 1 / BAND)


def pace(ratio: NDArray[np.float64]) -> Pace | None:
    """Over steps of any replica; None where no pace is known."""
    known = ratio[~np.isnan(ratio)]
    if not len(known):
        return None
    p95 = float(np.percentile(known, 95))
    return Pace(float(np.median(known)), p95, int(at_pace(known).sum()), len(ratio))
