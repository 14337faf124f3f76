"""What uneven contexts add to a mixed attention kernel: t(mean) + alpha * (t(longest) - t(mean)).

Tables are of decodes with equal contexts. The work of a batch goes with their sum, so the mean
stands for all of them; a kernel that pads or waits for its longest sequence takes longer. alpha is
how much of the way to a batch as long as its longest: measured, and a mean for each bucket of batch
size, share (mean - shortest) / (longest - shortest), longest context and prefix; between the
chunks that were measured it is interpolated. (Method and buckets: LLMServingSim 2, `fit_alpha`.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from math import inf
from typing import NamedTuple, TypeAlias

from .base import Contexts
from .profile import Uneven

#: alpha along the chunks: these, and by `bisect_right` the chunk below, the gap to the next one,
#: alpha there and what it rises by until the next. Held at both ends
_Chunks: TypeAlias = tuple[list[float], list[tuple[float, float, float, float]]]
_ENDLESS = 1 << 60


class Bucket(NamedTuple):
    """Of pure decode, where the longest context is above *over*, up to *most*: alpha by share."""

    over: int
    most: int
    alphas: list[float]


class Alphas:
    """The buckets of a profile, compiled.

    Attributes:
        shares: upper edges of the buckets of shares, but for the last.
    """

    def __init__(self, uneven: Uneven) -> None:
        self._default = uneven.default
        # the last bucket has no end, so its edge is none; what is compared with a whole number
        # needs the whole part of an edge
        self._sequences = list(map(int, uneven.sequences[:-1]))
        self._prefixes = list(map(int, uneven.prefixes[:-1]))
        self._longest = list(map(int, uneven.longest[:-1]))
        self.shares = uneven.shares[:-1]
        self._pure: dict[tuple[int, int, int], float] = {}
        found: dict[tuple[int, int, int, int], list[tuple[float, float]]] = {}
        for chunk, *bucket, alpha in uneven.alphas:
            n, share, longest, prefix = map(int, bucket)
            if chunk:
                found.setdefault((n, share, longest, prefix), []).append((chunk, alpha))
            else:
                self._pure[n, share, longest] = alpha
        self._mixed = {key: _along(sorted(points)) for key, points in found.items()}

    def buckets(self, decodes: int) -> list[Bucket]:
        """Of a step without prefill."""
        n, shares = bisect_left(self._sequences, decodes), range(len(self.shares) + 1)
        edges = [0, *self._longest, _ENDLESS]
        return [
            Bucket(over, most, [self._pure.get((n, share, i), self._default) for share in shares])
            for i, (over, most) in enumerate(pairwise(edges))
        ]

    def pure(self, decodes: int, context: int, contexts: Contexts) -> float:
        """Of a step without prefill: *decodes* sequences that read *context* tokens together."""
        shortest, longest = contexts
        share = (context - decodes * shortest) / (decodes * (longest - shortest))
        bucket = self.buckets(decodes)[bisect_left(self._longest, longest)]
        return bucket.alphas[bisect_left(self.shares, share)]

    def mixed(
        self, chunk: int, before: int, decodes: int, context: int, contexts: Contexts
    ) -> float:
        """Of decodes beside a chunk of *chunk* tokens after *before*."""
        shortest, longest = contexts
        share = (context - decodes * shortest) / (decodes * (longest - shortest))
        key = (
            bisect_left(self._sequences, decodes),
            bisect_left(self.shares, share),
            bisect_left(self._longest, longest),
            bisect_left(self._prefixes, before),
        )
        found = self._mixed.get(key)
        if found is None:
            return self._default
        chunks, sides = found
        x = float(chunk)
        low, gap, alpha, rise = sides[bisect_right(chunks, x)]
        return alpha + (x - low) / gap * rise


def _along(points: list[tuple[float, float]]) -> _Chunks:
    between = [(x, after - x, y, high - y) for (x, y), (after, high) in pairwise(points)]
    (first, low), (last, high) = points[0], points[-1]
    sides = [(first, inf, low, 0.0), *between, (last, inf, high, 0.0)]
    return [x for x, _ in points], sides


def matters(decodes: int, contexts: Contexts) -> bool:
    """Whether *contexts* of that many decodes are uneven."""
    return decodes > 1 and contexts[0] < contexts[1]
