"""What uneven contexts add to a mixed attention kernel: t(mean) + alpha * (t(longest) - t(mean)).

Tables are of decodes with equal contexts. The work of a batch goes with their sum, so the mean
stands for all of them; a kernel that pads or waits for its longest sequence takes longer. alpha is
how much of the way to a batch as long as its longest: measured, and a mean for each bucket of batch
size, share (mean - shortest) / (longest - shortest), longest context and prefix; between the
chunks that were measured it is interpolated. (Method and buckets: LLMServingSim 2, `fit_alpha`.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from .base import Contexts
from .profile import Uneven

_Chunks = tuple[list[float], list[float]]  #: chunks, and alpha at each


class Bucket(NamedTuple):
    """Where an alpha of pure decode holds: longest contexts above *over*, up to *most*."""

    alpha: float
    over: int
    most: int


class Alphas:
    """The buckets of a profile, compiled."""

    def __init__(self, uneven: Uneven) -> None:
        self._default = uneven.default
        self._sequences, self._shares = uneven.sequences, uneven.shares
        self._longest, self._prefixes = tuple(map(int, uneven.longest)), uneven.prefixes
        self._pure: dict[tuple[int, int, int], float] = {}
        found: dict[tuple[int, int, int, int], list[tuple[float, float]]] = {}
        for chunk, *bucket, alpha in uneven.alphas:
            n, share, longest, prefix = map(int, bucket)
            if chunk:
                found.setdefault((n, share, longest, prefix), []).append((chunk, alpha))
            else:
                self._pure[n, share, longest] = alpha
        self._mixed: dict[tuple[int, int, int, int], _Chunks] = {
            key: ([x for x, _ in sorted(points)], [y for _, y in sorted(points)])
            for key, points in found.items()
        }

    def pure(self, decodes: int, context: int, contexts: Contexts) -> Bucket:
        """Of a step without prefill: *decodes* sequences that read *context* tokens together."""
        longest = contexts[1]
        i = _bucket(self._longest, longest)
        key = _bucket(self._sequences, decodes), self._share(decodes, context, contexts), i
        over = self._longest[i - 1] if i else 0
        most = self._longest[i] if i + 1 < len(self._longest) else 1 << 60
        return Bucket(self._pure.get(key, self._default), over, most)

    def mixed(
        self, chunk: int, before: int, decodes: int, context: int, contexts: Contexts
    ) -> float:
        """Of decodes beside a chunk of *chunk* tokens after *before*."""
        key = (
            _bucket(self._sequences, decodes),
            self._share(decodes, context, contexts),
            _bucket(self._longest, contexts[1]),
            _bucket(self._prefixes, before),
        )
        found = self._mixed.get(key)
        if found is None:
            return self._default
        chunks, alphas = found
        i = bisect_left(chunks, chunk)
        if i == len(chunks):
            return alphas[-1]
        if not i or chunks[i] == chunk:
            return alphas[i]
        share = (chunk - chunks[i - 1]) / (chunks[i] - chunks[i - 1])
        return alphas[i - 1] + share * (alphas[i] - alphas[i - 1])

    def _share(self, decodes: int, context: int, contexts: Contexts) -> int:
        shortest, longest = contexts
        above = (context - decodes * shortest) / (decodes * (longest - shortest))
        return _bucket(self._shares, above)


def matters(decodes: int, contexts: Contexts) -> bool:
    """Whether *contexts* of that many decodes are uneven."""
    return decodes > 1 and contexts[0] < contexts[1]


def _bucket(edges: Sequence[float], value: float) -> int:
    """The first bucket whose upper edge is not below *value*; the last has none."""
    return min(bisect_left(edges, value), len(edges) - 1)
