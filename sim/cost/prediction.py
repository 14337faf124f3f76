"""A step's time with its parts, their grades and how far off they may be: for people and tests."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

from .grades import Grade
from .profile import Profile

#: relative standard deviation of a prediction of each grade, beside its table's own. Sources:
#: interpolation and transfer of fitted tables of an H100, held out; the roofline of four real
#: runs. Two collections of one kernel differ by 3 % (`LEVEL_SIGMA`).
GRADE_SIGMA: Mapping[Grade, float] = {
    "measured": 0.0,
    "interpolated": 0.03,
    "extrapolated": 0.1,
    "transferred": 0.2,
    "datasheet": 0.3,
}
LEVEL_SIGMA = 0.03  #: of a table that states none


class PartTime(NamedTuple):
    """One operation's share: seconds, the worst grade in it, relative standard deviation."""

    seconds: float
    grade: Grade
    sigma: float


class Prediction(NamedTuple):
    """A step's time.

    Attributes:
        sigma: relative standard deviation, errors of the operations taken as independent.
        parts: operation -> its share; "host" is what the CPU adds. They sum to `seconds`.
    """

    seconds: float
    sigma: float
    parts: dict[str, PartTime]


def predicted(seconds: float, parts: dict[str, PartTime]) -> Prediction:
    """The prediction that *parts* make."""
    spread = sqrt(sum((part.seconds * part.sigma) ** 2 for part in parts.values()))
    return Prediction(seconds, spread / seconds if seconds else 0.0, parts)


def level_sigma(profile: Profile, op: str) -> float:
    """Relative standard deviation of the level of *op*; "host" is the engine's work on the CPU."""
    if op == "host":
        return GRADE_SIGMA["datasheet"] if profile.host is None else LEVEL_SIGMA
    table = profile.table(op)
    return GRADE_SIGMA["datasheet"] if table is None else table.sigma or LEVEL_SIGMA


def sigma_of(profile: Profile, op: str, grade: Grade) -> float:
    """Relative standard deviation of *op*: its table's level, and what its grade adds."""
    table = profile.table(op)
    level = 0.0
    if table is not None:
        level = table.sigma or LEVEL_SIGMA
    return sqrt(level**2 + GRADE_SIGMA[grade] ** 2)
