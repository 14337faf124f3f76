"""The median of repeated timings, how sure it is, and whether they scatter too much."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median, pstdev
from typing import NamedTuple

CONFIDENCE = 0.95
MAX_CV = 0.05  #: standard deviation over median above which a point is flagged


class Summary(NamedTuple):
    """Of the samples of one point.

    Attributes:
        median_s, low_s, high_s: the median and the ends of its 95 % interval.
        cv: standard deviation over median.
        samples: how many.
    """

    median_s: float
    low_s: float
    high_s: float
    cv: float
    samples: int

    @property
    def noisy(self) -> bool:
        """Whether the samples scatter by more than 5 %."""
        return self.cv > MAX_CV

    @property
    def relative_error(self) -> float:
        """Half the width of the interval over the median: how far off the median may be."""
        return (self.high_s - self.low_s) / (2 * self.median_s) if self.median_s > 0 else 0.0


def summarize(samples_s: Sequence[float]) -> Summary:
    """Median, its interval by order statistics (no normality assumed), and CV.

    With fewer than six samples no pair of them covers the median in 95 % of cases; the interval is
    then from least to greatest.
    """
    ordered = sorted(samples_s)
    middle = median(ordered)
    rank = _rank(len(ordered))
    spread = pstdev(ordered) / middle if middle > 0 else 0.0
    return Summary(middle, ordered[rank], ordered[len(ordered) - 1 - rank], spread, len(ordered))


def _rank(n: int) -> int:
    """The greatest k for which [x_k, x_(n-1-k)], counted from 0, covers the median often enough.

    It misses when at most k of n samples fall on one side: 2 P(Binomial(n, 1/2) <= k).
    """
    missed, rank = 0.0, 0
    for k in range(n // 2):
        missed += 2 * comb(n, k) / 2**n
        if missed > 1 - CONFIDENCE:
            break
        rank = k
    return rank
