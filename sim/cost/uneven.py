"""What uneven contexts add to a mixed attention kernel: t(mean) + alpha * (t(longest) - t(mean)).

Tables are of decodes with equal contexts. The work of a batch goes with their sum, so the mean
stands for all of them; a kernel that pads or waits for its longest sequence takes longer. alpha is
how much of the way to a batch as long as its longest: measured, and a mean for each bucket of batch
size, share (mean - shortest) / (longest - shortest), longest context and prefix; between the
chunks that were measured it is interpolated. (Method and buckets: LLMServingSim 2, `fit_alpha`.)
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeAlias

from .base import Contexts
from .profile import Uneven

_Chunks = tuple[list[float], list[float]]  #: chunks, and alpha at each


#: (alpha, over, most): of pure decode, where the longest context is above *over*, up to *most*
Bucket: TypeAlias = tuple[float, int, int]
_ENDLESS = 1 << 60


class Alphas:
    """The buckets of a profile, compiled."""

    def __init__(self, uneven: Uneven) -> None:
        self._default = uneven.default
        # the last bucket has no end, so its edge is none
        self._sequences, self._shares = uneven.sequences[:-1], uneven.shares[:-1]
        self._prefixes = uneven.prefixes[:-1]
        self._longest = tuple(map(int, uneven.longest[:-1]))
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
        shortest, longest = contexts
        edges = self._longest
        i = bisect_left(edges, longest)
        share = (context - decodes * shortest) / (decodes * (longest - shortest))
        key = bisect_left(self._sequences, decodes), bisect_left(self._shares, share), i
        over = edges[i - 1] if i else 0
        most = edges[i] if i < len(edges) else _ENDLESS
        return self._pure.get(key, self._default), over, most

    def mixed(
        self, chunk: int, before: int, decodes: int, context: int, contexts: Contexts
    ) -> float:
        """Of decodes beside a chunk of *chunk* tokens after *before*."""
        shortest, longest = contexts
        share = (context - decodes * shortest) / (decodes * (longest - shortest))
        key = (
            bisect_left(self._sequences, decodes),
            bisect_left(self._shares, share),
            bisect_left(self._longest, longest),
            bisect_left(self._prefixes, before),
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


def matters(decodes: int, contexts: Contexts) -> bool:
    """Whether *contexts* of that many decodes are uneven."""
    return decodes > 1 and contexts[0] < contexts[1]
