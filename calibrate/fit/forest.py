"""A random forest on log-residuals with physics features, where scikit-learn is installed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from .physics import Array, Physics

_TREES = 100
_HELD_SHARE = 0.2


def has_forest() -> bool:
    """Whether scikit-learn is there."""
    return find_spec("sklearn") is not None


@dataclass(frozen=True)
class Forest:
    """A fitted forest, and the log error it had on points held out of those given."""

    model: Any
    error: float

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Residual and its standard deviation, at [queries, features]."""
        mean = np.asarray(self.model.predict(features), float)
        return mean, np.full(len(mean), self.error)


def features(physics: Physics, log_roofline: Array) -> Array:
    """What the forest sees of every point: coordinates, terms, and the roofline itself."""
    return np.column_stack([physics.coordinates, physics.terms, log_roofline])


def fit_forest(seen: Array, residuals: Array, seed: int = 0) -> Forest:
    """Fit to [points, features]; the error is that of a fifth, foretold from the others.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    order = np.random.default_rng(seed).permutation(len(residuals))
    held, kept = np.split(order, [max(1, round(_HELD_SHARE * len(order)))])
    trial = _grow(seen[kept], residuals[kept], seed)
    miss = np.abs(np.asarray(trial.predict(seen[held])) - residuals[held])
    return Forest(_grow(seen, residuals, seed), float(np.percentile(miss, 68)))


def _grow(seen: Array, residuals: Array, seed: int) -> Any:
    ensemble = import_module("sklearn.ensemble")
    model = ensemble.RandomForestRegressor(_TREES, max_features=0.5, random_state=seed)
    return model.fit(seen, residuals)
