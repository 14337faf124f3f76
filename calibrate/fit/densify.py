"""A fit as a table: knots so dense that straight lines between them stay close to the fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

import numpy as np

from ...policies.errors import InputError
from ...sim.cost.ops import Axis
from ...sim.cost.profile import Table
from .op import OpFit
from .physics import Array, Columns

_MOST_KNOTS = {1: 600, 2: 48}  #: of each axis, by the number of axes
_MOST_PROBES = 12  #: of the other axis, when knots of one are looked for
_ROUNDS = 14


class Span(NamedTuple):
    """The part of a fit's column that a table covers.

    Attributes:
        column: of the fit, e.g. "m".
        low, high: whole numbers, both of them knots.
        at: further values that must be knots, e.g. batch sizes of CUDA graphs.
    """

    column: str
    low: int
    high: int
    at: tuple[int, ...] = ()


def densify(
    fit: OpFit,
    op: str,
    spans: Mapping[Axis, Span],
    fixed: Mapping[str, float],
    *,
    times: int,
    tolerance: float = 0.003,
    sigma: float = 0.0,
    note: str = "",
    add_s: float = 0.0,
) -> Table:
    """The table of *op* that a linear interpolation takes for *fit*.

    Args:
        spans: what each axis of the table is, in the table's order, e.g.
            ``{"tokens": Span("m", 1, 8192)}``. Values of measured points of the same shape become
            knots; between them knots are added until lines are within *tolerance* of the fit, or
            there are 600 (one axis) or 48 (each of two).
        fixed: the fit's other columns, e.g. ``{"n": 6144, "k": 4096}``.
        times: launches in a step.
        sigma: see `Table.sigma`.
        add_s: added to every point, for what the fit's points leave out.

    Raises:
        InputError: an empty span, or more than two.
    """
    for axis, span in spans.items():
        if not 0 <= span.low <= span.high:
            raise InputError(f"span of {axis} is empty: {span.low} to {span.high}", where=op)
    if len(spans) not in _MOST_KNOTS:
        raise InputError(f"{len(spans)} axes; 1 or 2 can be made dense", where=op)
    columns = [span.column for span in spans.values()]
    knots = _knots(fit, list(spans.values()), fixed, tolerance)
    grid = np.array(list(product(*knots)), float)
    found = fit.predict({**fixed, **dict(zip(columns, grid.T, strict=True))})
    points = tuple(
        (*map(float, at), float(seconds) + add_s)
        for at, seconds in zip(grid, found.seconds, strict=True)
    )
    return Table(
        op=op,
        times=times,
        by=tuple(spans),
        points=points,
        grades=tuple(found.grades),
        sigma=sigma,
        note=note,
    )


def _knots(
    fit: OpFit, spans: list[Span], fixed: Mapping[str, float], tolerance: float
) -> list[Array]:
    """The knots of every axis; the others' first ones are where lines are tested."""
    knots = [_first(fit, span, fixed) for span in spans]
    for i, span in enumerate(spans):
        line = _Line(fit, span.column, fixed, _probes(spans, knots, i))
        knots[i] = _refined(knots[i], line.seconds, tolerance, _MOST_KNOTS[len(spans)])
    return knots


class _Line(NamedTuple):
    """The fit along one column, at some places of the others."""

    fit: OpFit
    column: str
    fixed: Mapping[str, float]
    probes: Columns

    def seconds(self, values: Array) -> Array:
        """[values, probes]"""
        if not self.probes:
            return self.fit.smooth({**self.fixed, self.column: values})[:, None]
        count = len(next(iter(self.probes.values())))
        at = {name: np.tile(places, len(values)) for name, places in self.probes.items()}
        at[self.column] = np.repeat(values, count)
        return self.fit.smooth({**self.fixed, **at}).reshape(len(values), count)


def _probes(spans: list[Span], knots: list[Array], axis: int) -> Columns:
    """Places of the columns other than that of *axis*: a dozen of each one's knots."""
    others = [(s.column, _thinned(k)) for s, k in zip(spans, knots, strict=True)]
    del others[axis]
    return dict(others)


def _first(fit: OpFit, span: Span, fixed: Mapping[str, float]) -> Array:
    """Ends, wanted values, powers of two, and what was measured of this shape."""
    shape = {name: fixed.get(name, fit.kind.defaults.get(name)) for name in fit.kind.shape}
    same = np.ones(len(fit.seconds), bool)
    for name, value in shape.items():
        same &= fit.points[name] == value
    measured = fit.points[span.column][same]
    powers = 2.0 ** np.arange(0, 31)
    values = np.concatenate([[span.low, span.high], span.at, powers, measured])
    values = values[(values >= span.low) & (values <= span.high)]
    return np.unique(np.round(values))


def _refined(knots: Array, seconds: Callable[[Array], Array], tolerance: float, most: int) -> Array:
    """Knots with the worst place of each bad gap added, round by round, worst gaps first."""
    for _ in range(_ROUNDS):
        left, right = knots[:-1], knots[1:]
        inner = np.unique(
            np.concatenate([_between(left, right, share) for share in (0.25, 0.5, 0.75)])
        )
        inner = np.setdiff1d(inner, knots)
        if not len(inner) or len(knots) >= most:
            break
        at_knots, at_inner = seconds(knots), seconds(inner)
        gap = np.searchsorted(knots, inner) - 1
        share = ((inner - knots[gap]) / (knots[gap + 1] - knots[gap]))[:, None]
        line = at_knots[gap] * (1 - share) + at_knots[gap + 1] * share
        error = np.abs(line / at_inner - 1).max(axis=1)
        worst: dict[int, int] = {}
        for i in np.argsort(-error, kind="stable"):
            if error[i] > tolerance:
                worst.setdefault(int(gap[i]), int(i))
        if not worst:
            break
        knots = np.union1d(knots, inner[list(worst.values())[: most - len(knots)]])
    return knots


def _between(left: Array, right: Array, share: float) -> Array:
    return np.asarray(np.round(np.maximum(left, 0.5) ** (1 - share) * right**share))


def _thinned(values: Array) -> Array:
    places = np.linspace(0, len(values) - 1, min(len(values), _MOST_PROBES))
    return np.asarray(values[np.round(places).astype(int)])
