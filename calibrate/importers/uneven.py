"""What uneven contexts add, from LLMServingSim's sweep of batches with a few long sequences.

Each batch was timed with its own contexts, with all at their mean, and with all at the longest.
alpha says how far between the last two the first lies; in a bucket it is the one that least squares
of the times give. This is how the bundle's own ``skew_fit.csv`` is made: same method, same buckets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ...policies.errors import InputError
from ...sim.cost.profile import Uneven

COLUMNS = (
    *("regime", "n", "nb", "ratio", "skew", "pc", "kp", "kvs", "kv_big", "kv_mean"),
    *("t_mean_us", "t_max_us", "t_skew_us", "alpha"),
)
DECIMALS = 4  #: of alpha, as in the bundle's tables
_SHARES = (-0.01, 0.05, 0.15, 0.4, 0.7, 1.01)
_Sums = list[float]  #: of products, of squares


def fitted(sweep: Sequence[Sequence[float]], axes: Mapping[str, Any] | None, where: str) -> Uneven:
    """The alphas of *sweep*: rows of `COLUMNS` but the regime.

    Args:
        axes: the bundle's bucket_axes; None: one bucket for each size and prefix of the sweep, and
            for four-fold contexts from 1,024 on, as its profiler chooses them.

    Raises:
        InputError: axes that are no rising numbers.
    """
    edges = _edges(sweep) if axes is None else _stated(axes, where)
    sequences, shares, longest, prefixes = edges
    whole: _Sums = [0.0, 0.0]
    sums: dict[tuple[float, int, int, int, int], _Sums] = {}
    for n, _, _, _, chunk, prefix, shortest, most, mean, at_mean, at_most, uneven, _ in sweep:
        share = (mean - shortest) / max(most - shortest, 1)
        key = (
            chunk,
            _bucket(sequences, n),
            _bucket(shares, share),
            _bucket(longest, most),
            _bucket(prefixes, prefix),
        )
        reach, added = at_most - at_mean, uneven - at_mean
        for found in (whole, sums.setdefault(key, [0.0, 0.0])):
            found[0] += reach * added
            found[1] += reach * reach
    return Uneven(
        default=_alpha(whole),
        sequences=sequences,
        shares=shares,
        longest=longest,
        prefixes=prefixes,
        alphas=tuple((*key, _alpha(found)) for key, found in sorted(sums.items())),
    )


def _alpha(sums: _Sums) -> float:
    return round(sums[0] / sums[1], DECIMALS) if sums[1] else 0.0


def _bucket(edges: Sequence[float], value: float) -> int:
    return min(bisect_left(edges, value), len(edges) - 1)


_Edges = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def _edges(sweep: Sequence[Sequence[float]]) -> _Edges:
    sizes, prefixes = {row[0] for row in sweep}, {row[5] for row in sweep}
    most = max(row[7] for row in sweep)
    contexts = [1024.0]
    while contexts[-1] < most:
        contexts.append(min(contexts[-1] * 4, most))
    return tuple(sorted(sizes)), _SHARES[1:], tuple(contexts), tuple(sorted(prefixes | {0.0}))


def _stated(axes: Mapping[str, Any], where: str) -> _Edges:
    n, shares, longest, prefixes = (
        _upper(axes, name, where) for name in ("n", "skew_rate", "kv_big", "kp")
    )
    return n, shares, longest, prefixes


def _upper(axes: Mapping[str, Any], name: str, where: str) -> tuple[float, ...]:
    """Upper edges of an axis: its list begins with the lower edge of the first bucket."""
    found = axes.get(f"{name}_bins")
    edges = found if isinstance(found, list) else []
    numbers = all(isinstance(x, int | float) for x in edges)
    if not numbers or len(edges) < 2 or any(b <= a for a, b in pairwise(edges)):
        raise InputError(
            f"bucket_axes of meta.yaml must have {name}_bins, rising numbers, found {found}",
            where=where,
        )
    return tuple(map(float, edges[1:]))
