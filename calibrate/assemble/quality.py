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
        signed: (place, relative error) of points foretold without them; empty for fewer than
            three points, and where nobody asked.
        uneven: measured over foretold minus 1, median over batches of uneven lengths.
    """

    op: str
    points: int
    noisy: int
    interval: float
    signed: tuple[tuple[tuple[int, ...], float], ...]
    uneven: float | None

    def error(self, percentile: float) -> float | None:
        """Of the sizes of the left-out errors; None where there are none."""
        sizes = [abs(error) for _, error in self.signed]
        return float(np.percentile(sizes, percentile)) if sizes else None

    @property
    def bias(self) -> float:
        """The median of the left-out errors with their signs; 0 where there are none."""
        return float(np.median([error for _, error in self.signed])) if self.signed else 0.0


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
    rows = {point.at: _row(one, point) for point in one.summaries} if errors else {}
    own = tuple((at, errors[row]) for at, row in rows.items() if row in errors)
    summaries = list(one.summaries.values())
    uneven = float(np.median(one.uneven)) - 1 if one.uneven else None
    return Quality(
        one.op,
        len(summaries),
        sum(s.noisy for s in summaries),
        float(np.median([s.relative_error for s in summaries])),
        own,
        uneven,
    )


def _row(one: Fitted, point: Point) -> bytes:
    """The point as the fit's columns."""
    names = [span.column for span in one.spans.values()]
    given = {**one.fixed, **dict(zip(names, map(float, point.at), strict=True))}
    columns = one.fit.kind.read(given)
    return bytes(one.fit.kind.matrix(columns)[0].tobytes())
