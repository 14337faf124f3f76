"""The smooth roofline and its fit: robust least squares on log error, by Levenberg-Marquardt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .physics import Array, Physics

_TURN = 0.05  #: log errors beyond this count linearly, not by their square
_STIFFNESS = 0.01  #: weight of the first guess, in points
_STEP = 1e-4
_ROUNDS = 80
_MOST_POINTS = 4000  #: parameters this few need no more


@dataclass(frozen=True)
class Prior:
    """Fitted parameters of a roofline: log start, log(p - 1), inefficiencies, modifier weights."""

    parameters: Array

    def log_seconds(self, physics: Physics) -> Array:
        """Log of the roofline at every point."""
        return _evaluate(self.parameters, physics)


def fit_prior(physics: Physics, log_seconds: Array, start: tuple[float, ...]) -> Prior:
    """The parameters of least robust error, held to *start* as far as the points leave them open.

    The cost is the pseudo-Huber one, so that a wild point pulls no harder than a bad one.
    """
    every = -(-len(log_seconds) // _MOST_POINTS)
    some = Physics(
        physics.terms[::every],
        tuple(m[::every] for m in physics.modifiers),
        physics.coordinates[::every],
        physics.floor_s[::every],
    )
    wanted = log_seconds[::every]
    guess = np.array(start)
    found, damping = guess, 1.0
    cost = _cost(found, guess, some, wanted)
    for _ in range(_ROUNDS):
        step, damping, lower = _improve(found, guess, some, wanted, cost, damping)
        if step is None:
            break
        found = found + step
        cost, gained = lower, cost - lower
        if gained < 1e-8 * cost:
            break
    return Prior(found)


def _evaluate(parameters: Array, physics: Physics) -> Array:
    count = physics.terms.shape[1]
    terms = physics.terms + parameters[2 : 2 + count]
    next_weight = 2 + count
    for i, modifiers in enumerate(physics.modifiers):
        width = modifiers.shape[1]
        terms[:, i] += modifiers @ parameters[next_weight : next_weight + width]
        next_weight += width
    p = 1 + np.exp(np.minimum(parameters[1], 4.0))
    largest = terms.max(axis=1)
    smooth = largest + np.log(np.exp(p * (terms - largest[:, None])).sum(axis=1)) / p
    return np.asarray(np.logaddexp(parameters[0], smooth))


def _cost(parameters: Array, guess: Array, physics: Physics, wanted: Array) -> float:
    error = _evaluate(parameters, physics) - wanted
    robust = _TURN**2 * (np.sqrt(1 + (error / _TURN) ** 2) - 1)
    return float(robust.sum() + _STIFFNESS * _TURN**2 * ((parameters - guess) ** 2).sum() / 2)


def _improve(
    found: Array, guess: Array, physics: Physics, wanted: Array, cost: float, damping: float
) -> tuple[Array | None, float, float]:
    """A step that lowers the cost, the damping it took, and the new cost; None if there is none."""
    now = _evaluate(found, physics)
    error = now - wanted
    weight = 1 / np.sqrt(1 + (error / _TURN) ** 2)
    slopes = [(_evaluate(found + _STEP * e, physics) - now) / _STEP for e in np.eye(len(found))]
    jacobian = np.stack(slopes, axis=1)
    stiffness = _STIFFNESS * _TURN**2
    normal = jacobian.T @ (weight[:, None] * jacobian) + stiffness * np.eye(len(found))
    gradient = jacobian.T @ (weight * error) + stiffness * (found - guess)
    for _ in range(14):
        step = np.asarray(
            np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient), float
        )
        lower = _cost(found + step, guess, physics, wanted)
        if np.isfinite(lower) and lower < cost:
            return step, max(damping / 4, 1e-6), lower
        damping *= 4
    return None, damping, cost
