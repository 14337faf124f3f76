"""Ordinary kriging of log-residuals: each point is foretold from its neighbours in all shapes.

Length scales, one a coordinate, and the noise are found by coordinate descent on the error of
points foretold without themselves: all of those given, or a sample of them. A query outside the
given points is moved to their edge first, so residuals are held there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .physics import Array

_NEIGHBOURS = 32
_CHUNK = 1024  #: queries solved at once
_TRIALS = 600  #: points that length scales are judged by, if there are more
_NOISES = (0.003, 0.01, 0.03, 0.1)
_FACTORS = (0.5, 2.0)
_PASSES = 3


@dataclass(frozen=True)
class Kriging:
    """A fitted residual.

    Attributes:
        coordinates: [points, coordinates] of the given points, unscaled.
        residuals: [points].
        rates: [coordinates], one over the length scale of each.
        noise: variance of a point's own noise, as a share of the residual's.
        spread: log error of a query, per unit of its kriging deviation.
    """

    coordinates: Array
    residuals: Array
    rates: Array
    noise: float
    spread: float

    def predict(self, queries: Array) -> tuple[Array, Array]:
        """Residual and its standard deviation, at [queries, coordinates]."""
        low, high = self.coordinates.min(axis=0), self.coordinates.max(axis=0)
        held = np.clip(queries, low, high)
        mean, deviation = _krige(
            held * self.rates, self.coordinates * self.rates, self.residuals, self.noise
        )
        beyond = np.abs((queries - held) * self.rates).sum(axis=1)
        return mean, self.spread * np.sqrt(deviation**2 + np.minimum(beyond, 4.0))


def fit_kriging(coordinates: Array, residuals: Array, seed: int = 0) -> Kriging:
    """Length scales, noise and spread by the error of points foretold without themselves."""
    order = np.random.default_rng(seed).permutation(len(residuals)).astype(np.int64)
    if len(order) < 4:
        return Kriging(coordinates, residuals, np.ones(coordinates.shape[1]), _NOISES[1], 0.1)
    trial = _Trial(coordinates, residuals, order[:_TRIALS])
    widths = np.ptp(coordinates, axis=0)
    rates = np.where(widths > 0, 0.5, 0.0)
    noise = _NOISES[1]
    best = trial.error(rates, noise)
    for _ in range(_PASSES):
        before = best
        for axis in np.flatnonzero(widths > 0):
            for factor in _FACTORS:
                candidate = rates.copy()
                candidate[axis] *= factor
                error = trial.error(candidate, noise)
                while error < best:
                    best, rates = error, candidate
                    candidate = rates.copy()
                    candidate[axis] *= factor
                    error = trial.error(candidate, noise)
        for other in _NOISES:
            error = trial.error(rates, other)
            if error < best:
                best, noise = error, other
        if best > 0.995 * before:
            break
    return Kriging(coordinates, residuals, rates, noise, trial.spread(rates, noise))


@dataclass(frozen=True)
class _Trial:
    coordinates: Array
    residuals: Array
    asked: NDArray[np.int64]

    def error(self, rates: Array, noise: float) -> float:
        """Mean of the absolute error's root: medians count, and wild points do not rule."""
        return float(np.sqrt(np.abs(self._miss(rates, noise)[0])).mean())

    def spread(self, rates: Array, noise: float) -> float:
        """What the kriging deviation is multiplied by so that 68 % of errors are within it."""
        miss, deviation = self._miss(rates, noise)
        return float(np.percentile(np.abs(miss) / deviation, 68))

    def _miss(self, rates: Array, noise: float) -> tuple[Array, Array]:
        scaled, values = self.coordinates * rates, self.residuals
        mean, deviation = _krige(scaled[self.asked], scaled, values, noise, without=self.asked)
        return mean - values[self.asked], deviation


def _krige(
    queries: Array,
    points: Array,
    values: Array,
    noise: float,
    without: NDArray[np.int64] | None = None,
) -> tuple[Array, Array]:
    """Mean and deviation of each query; *without* is the point that each must not look at."""
    count = min(_NEIGHBOURS, len(points) - (without is not None))
    mean, deviation = np.empty(len(queries)), np.empty(len(queries))
    squares = (points * points).sum(axis=1)
    for start in range(0, len(queries), _CHUNK):
        some = slice(start, start + _CHUNK)
        query = queries[some]
        far = squares - 2 * query @ points.T
        if without is not None:
            far[np.arange(len(query)), without[some]] = np.inf
        near = np.argpartition(far, count - 1, axis=1)[:, :count]
        at = points[near]
        covariance = _like(at[:, :, None] - at[:, None]) + noise * np.eye(count)
        to_query = _like(at - query[:, None])
        ones = np.ones_like(to_query)
        sides = np.stack([values[near], ones, to_query], axis=-1)
        by_value, by_one, by_query = np.moveaxis(np.linalg.solve(covariance, sides), -1, 0)
        level = by_value.sum(axis=1) / by_one.sum(axis=1)
        mean[some] = level + (to_query * (by_value - level[:, None] * by_one)).sum(axis=1)
        left = 1 + noise - (to_query * by_query).sum(axis=1)
        left += (1 - by_query.sum(axis=1)) ** 2 / by_one.sum(axis=1)
        deviation[some] = np.sqrt(np.maximum(left, 1e-9))
    return mean, deviation


def _like(offsets: Array) -> Array:
    """Exponential covariance (Matern 1/2) of scaled offsets: rough, as kernel times are."""
    return np.asarray(np.exp(-np.sqrt((offsets * offsets).sum(axis=-1))))
