"""Which cell is best and by what measure, and which compared key matters most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..sim.state.records import CellRecords
from .labels import text, varied

_FINISHED_SLACK = 0.01  # a cell that finishes a smaller share than the best by this is not eligible


@dataclass(frozen=True, slots=True)
class Ranking:
    """Cells by one measure.

    Attributes:
        measure: its name in a sentence.
        higher_is_better: for goodput; latencies are the other way round.
        values: one a cell; None where it does not exist.
        best: index of the best cell that can be deployed (no oracle) and finishes as many
            requests as any; None when nothing finished.
        worst: index of the worst; None likewise.
        bound: index of the best oracle cell, if there is one.
    """

    measure: str
    higher_is_better: bool
    values: list[float | None]
    best: int | None
    worst: int | None
    bound: int | None


def rank(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> Ranking:
    """By goodput where an SLO is given and anything meets it, else by mean end-to-end latency."""
    goodput = [metrics["goodput_rps"] for metrics in summaries]
    higher = any(goodput)
    measure = "goodput" if higher else "mean end-to-end latency"
    values = goodput if higher else [metrics["e2e_s"]["mean"] for metrics in summaries]
    shares = [_finished_share(metrics) for metrics in summaries]
    enough = max(shares, default=0.0) - _FINISHED_SLACK
    sign = -1.0 if higher else 1.0
    keyed = [(sign * value, i) for i, value in enumerate(values) if value is not None]
    real = [(key, i) for key, i in keyed if not cells[i].oracle]
    fit = [(key, i) for key, i in real if shares[i] >= enough]
    bounds = [(key, i) for key, i in keyed if cells[i].oracle]
    return Ranking(
        measure=measure,
        higher_is_better=higher,
        values=values,
        best=min(fit)[1] if fit else None,
        worst=max(real, key=lambda pair: (pair[0], -pair[1]))[1] if real else None,
        bound=min(bounds)[1] if bounds else None,
    )


def _finished_share(metrics: dict[str, Any]) -> float:
    requests = metrics["requests"]
    return float(requests["finished"] / max(1, requests["arrived"]))


def effects(cells: Sequence[CellRecords], ranking: Ranking) -> list[tuple[str, float]]:
    """How far each compared key moves the measure: (key, largest / smallest mean - 1), most first.

    The mean is over the other keys. Empty unless two or more keys form a full grid of cells that
    all have the measure.
    """
    keys = varied(cells)
    values = [value for value in ranking.values if value]
    grid = 1
    for key in keys:
        grid *= len({text(cell.params[key]) for cell in cells})
    if len(keys) < 2 or grid != len(cells) or len(values) != len(cells):
        return []
    found = [(key, _effect(cells, key, values)) for key in keys]
    return sorted(found, key=lambda pair: (-pair[1], keys.index(pair[0])))


def _effect(cells: Sequence[CellRecords], key: str, values: list[float]) -> float:
    groups: dict[str, list[float]] = {}
    for cell, value in zip(cells, values, strict=True):
        groups.setdefault(text(cell.params[key]), []).append(value)
    means = [sum(group) / len(group) for group in groups.values()]
    return max(means) / min(means) - 1
