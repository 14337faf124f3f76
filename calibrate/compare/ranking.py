"""Whether the simulator ranks policies as reality does: Kendall's τ-b, which counts ties."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from typing import Any

#: figure, statistic, and whether less is better
RANKED = (
    ("ttft_s", "mean", True),
    ("tpot_s", "mean", True),
    ("e2e_s", "mean", True),
    ("output_tokens_per_s", "value", False),
    ("hit_rate", "value", False),
)


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """τ-b of two lists of as many values: 1 same order, −1 reversed.

    A pair that is tied in one list only counts against it; None where a list is all ties or has
    fewer than two values.
    Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945).
    """
    agree = ties_a = ties_b = pairs = 0
    for (a_i, b_i), (a_j, b_j) in combinations(zip(a, b, strict=True), 2):
        pairs += 1
        ties_a += a_i == a_j
        ties_b += b_i == b_j
        agree += _sign(a_i - a_j) * _sign(b_i - b_j)
    if ties_a == pairs or ties_b == pairs:
        return None
    return agree / sqrt((pairs - ties_a) * (pairs - ties_b))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def ranking(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """τ of every figure that all *cells* (of `compare.compare`) have on both sides.

    ``all_tied`` where every cell is equal on both sides: there is nothing to rank.
    """
    found = []
    for metric, statistic, less_is_better in RANKED:
        rows = [
            next((r for r in c["rows"] if (r["metric"], r["stat"]) == (metric, statistic)), None)
            for c in cells
        ]
        values = [(r["measured"], r["simulated"]) for r in rows if r is not None]
        if len(values) < len(cells):
            continue
        theirs, ours = [pair[0] for pair in values], [pair[1] for pair in values]
        found.append(
            {
                "metric": metric,
                "stat": statistic,
                "tau": kendall(theirs, ours),
                "all_tied": len({*theirs}) == len({*ours}) == 1,
                "measured": _order(cells, theirs, less_is_better),
                "simulated": _order(cells, ours, less_is_better),
            }
        )
    return found


def _order(
    cells: Sequence[dict[str, Any]], values: Sequence[float], less_is_better: bool
) -> list[list[str]]:
    """Names of the cells by place, the best first; those that are tied share a place."""
    places: dict[float, list[str]] = {}
    for value, cell in zip(values, cells, strict=True):
        places.setdefault(value, []).append(str(cell["name"]))
    return [places[value] for value in sorted(places, reverse=not less_is_better)]
