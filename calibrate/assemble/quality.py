"""How good a profile's tables are: coverage, scatter, and errors on points left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ...policies.errors import InputError
from ..measure.point import Point
from .fitted import Fitted


class Quality(NamedTuple):
    """Of one table.

    Attributes:
        points: measured ones of its grid.
        noisy: of them, those whose samples scatter by more than 5 %.
        interval: median half width of the 95 % interval of a point's median, relative.
        left_out: relative errors of points foretold without them, absolute, sorted; empty for
            fewer than three points.
        bias: the median of the same with their signs.
        uneven: measured over foretold minus 1, median over batches of uneven lengths.
    """

    op: str
    points: int
    noisy: int
    interval: float
    left_out: tuple[float, ...]
    bias: float
    uneven: float | None

    def error(self, percentile: float) -> float | None:
        """Of the left-out errors; None where there are none."""
        return float(np.percentile(self.left_out, percentile)) if self.left_out else None


def qualities(fitted: Mapping[str, Fitted], *, left_out: bool) -> dict[str, Quality]:
    """Of every op. Ops that share a fit are left out together but told apart.

    Args:
        left_out: foretell every point without it, which takes ten times as long as the fit.
    """
    errors = {id(one.fit): _left_out(one) if left_out else {} for one in fitted.values()}
    return {op: _quality(one, errors[id(one.fit)]) for op, one in fitted.items()}


def sigma(quality: Quality, drift: float) -> float:
    """Relative standard deviation of a table's level: what all its points may be off together.

    The anchors' drift, the uncertainty of a typical point, and the share of uneven batches that
    the table misses, as independent parts.
    """
    parts = (drift, quality.interval / 1.96, quality.uneven or 0.0)
    return min(10.0, float(np.hypot.reduce(parts)))


def _left_out(one: Fitted) -> dict[bytes, float]:
    """Columns of a point -> signed relative error without it."""
    fit = one.fit
    try:
        found = fit.leave_one_out()
    except InputError:
        return {}
    rows = fit.kind.matrix(fit.points)
    wrong = found / fit.seconds - 1
    return {row.tobytes(): float(e) for row, e in zip(rows, wrong, strict=True)}


def _quality(one: Fitted, errors: Mapping[bytes, float]) -> Quality:
    own = []
    for point in one.summaries:
        key = _row(one, point)
        if key in errors:
            own.append(errors[key])
    summaries = list(one.summaries.values())
    uneven = float(np.median(one.uneven)) - 1 if one.uneven else None
    return Quality(
        one.op,
        len(summaries),
        sum(s.noisy for s in summaries),
        float(np.median([s.relative_error for s in summaries])),
        tuple(sorted(abs(e) for e in own)),
        float(np.median(own)) if own else 0.0,
        uneven,
    )


def _row(one: Fitted, point: Point) -> bytes:
    """The point as the fit's columns."""
    names = [span.column for span in one.spans.values()]
    given = {**one.fixed, **dict(zip(names, map(float, point.at), strict=True))}
    columns = one.fit.kind.read(given)
    return bytes(one.fit.kind.matrix(columns)[0].tobytes())
