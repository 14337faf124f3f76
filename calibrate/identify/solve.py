"""Scales and host terms that explain a run, and which of them it cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..assemble.nnls import Array, Solution, solve
from .families import HOST

_WIDEST_SCALE = 0.3  #: half width of a scale's 95 % interval, beyond which it is not identified
_HUBER = 1.345  #: robust standard deviations, beyond which an observation counts less
_REWEIGHINGS = 5
_WIDEST_TERM = 1.0  #: the same of a host term, as a share of itself


class Term(NamedTuple):
    """A scale of a family, or a host term in seconds.

    Attributes:
        low, high: 95 % interval; None where the run does not identify it.
    """

    name: str
    value: float
    low: float | None
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether the run says what it is."""
        return self.low is not None

    def __str__(self) -> str:
        unit, factor = ("µs", 1e6) if self.name in HOST else ("×", 1.0)
        shown = f"{self.name} {self.value * factor:.4g} {unit}"
        if self.low is None or self.high is None:
            return f"{shown} (not identified: kept)"
        return f"{shown} ({self.low * factor:.4g} to {self.high * factor:.4g})"


class Identified(NamedTuple):
    """A fit to a run.

    Attributes:
        terms: all of them, in the order of the columns.
        condition: of the columns that were fitted in the end, and of all of them.
        errors: relative, signed, of every observation.
    """

    terms: dict[str, Term]
    condition: float
    condition_of_all: float
    errors: Array


def identify(names: Sequence[str], matrix: Array, seconds: Array) -> Identified:
    """Fit all columns, then again without the one that is identified least, until all are.

    A family that is not identified keeps its scale of 1; a host term is left out.
    """
    weights = _weights(matrix, seconds)
    free = [i for i in range(len(names)) if matrix[:, i].any()]
    whole = solve(matrix[:, free], seconds, weights)
    while True:
        kept = [i for i in range(len(names)) if i not in free and names[i] not in HOST]
        left = seconds - matrix[:, kept].sum(axis=1)
        found = solve(matrix[:, free], left, weights)
        worst = _worst([names[i] for i in free], found)
        if worst is None or len(free) == 1:
            break
        free.pop(worst)
    terms = {}
    for i, name in enumerate(names):
        if i in free:
            at = free.index(i)
            low, high = float(found.low[at]), float(found.high[at])
            terms[name] = Term(name, float(found.values[at]), low, high)
        else:
            terms[name] = Term(name, 0.0 if name in HOST else 1.0, None, None)
    told = matrix @ np.array([terms[name].value for name in names])
    return Identified(terms, found.condition, whole.condition, told / seconds - 1)


def _weights(matrix: Array, seconds: Array) -> Array:
    """Relative errors count; observations that are far off count less (Huber, 1964)."""
    weights = 1 / seconds
    for _ in range(_REWEIGHINGS):
        found = solve(matrix, seconds, weights)
        off = np.abs(matrix @ found.values / seconds - 1)
        usual = 1.4826 * float(np.median(off)) + 1e-12
        weights = np.sqrt(np.minimum(1.0, _HUBER * usual / np.maximum(off, 1e-300))) / seconds
    return weights


def _worst(names: Sequence[str], found: Solution) -> int | None:
    """The column with the widest interval for its kind; None where all are narrow enough."""
    ratios = []
    for name, value, high in zip(names, found.values, found.high, strict=True):
        half = high - value
        if name in HOST:
            ratios.append(half / max(value, 1e-12) / _WIDEST_TERM)
        else:
            ratios.append((half if value > 0 else np.inf) / _WIDEST_SCALE)
    worst = int(np.argmax(ratios))
    return worst if ratios[worst] > 1 else None
