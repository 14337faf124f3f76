"""Least squares with coefficients that cannot be negative, and how well they are determined."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_Z95 = 1.96


class Solution(NamedTuple):
    """Of a fit with non-negative coefficients.

    Attributes:
        values: [columns].
        low, high: [columns], 95 % intervals; a coefficient held at 0 has low 0.
        condition: of the columns scaled to equal length; above about 30 they do the same work.
        rank: independent columns.
    """

    values: Array
    low: Array
    high: Array
    condition: float
    rank: int


def solve(matrix: Array, wanted: Array, weights: Array | None = None) -> Solution:
    """The x >= 0 that minimises |weights * (matrix x - wanted)| (Lawson and Hanson, 1974).

    Args:
        matrix: [rows, columns].
        wanted: [rows].
        weights: [rows]; ones if None.
    """
    scale = np.ones(len(wanted)) if weights is None else weights
    a, b = matrix * scale[:, None], wanted * scale
    lengths = np.linalg.norm(a, axis=0)
    lengths[lengths == 0] = 1.0
    unit = a / lengths
    values = _active_set(unit, b)
    spread = _spread(unit, b, values)
    found, off = values / lengths, _Z95 * spread / lengths
    singular = np.linalg.svd(unit, compute_uv=False)
    least = singular[-1] if len(singular) == matrix.shape[1] else 0.0
    condition = float(singular[0] / least) if least > 1e-12 * singular[0] else float("inf")
    rank = int(np.linalg.matrix_rank(unit))
    return Solution(found, np.maximum(0.0, found - off), found + off, condition, rank)


def _active_set(a: Array, b: Array) -> Array:
    count = a.shape[1]
    x = np.zeros(count)
    free = np.zeros(count, bool)
    for _ in range(10 * count):
        gradient = a.T @ (b - a @ x)
        gradient[free] = -np.inf
        best = int(np.argmax(gradient))
        if free.all() or gradient[best] <= 1e-10 * max(1.0, float(np.abs(a.T @ b).max())):
            break
        free[best] = True
        x = _inner(a, b, x, free)
    return x


def _inner(a: Array, b: Array, x: Array, free: NDArray[np.bool_]) -> Array:
    """Solve on the *free* columns, giving up those that would turn negative."""
    while True:
        trial = np.zeros(len(x))
        trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        if (trial[free] > 0).all():
            return trial
        bad = free & (trial <= 0)
        step = np.min(x[bad] / np.maximum(x[bad] - trial[bad], 1e-300))
        x = x + step * (trial - x)
        free &= x > 1e-15
        if not free.any():
            return np.zeros(len(x))


def _spread(a: Array, b: Array, x: Array) -> Array:
    """Standard error of every coefficient, those at 0 as if they were free."""
    left = len(b) - a.shape[1]
    if left < 1:
        return np.full(len(x), np.inf)
    noise = float(((b - a @ x) ** 2).sum()) / left
    covariance = np.linalg.pinv(a.T @ a) * noise
    return np.sqrt(np.maximum(np.diag(covariance), 0.0))
