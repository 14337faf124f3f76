"""Random quantities in a scenario: a number, or a mapping with ``kind:``.

Every draw uses a generator that the caller owns; nothing here keeps state between draws.
"""

from __future__ import annotations

from math import exp, log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from ...policies.errors import InputError
from ..schema.base import Spec
from .lengths import column
from .shorthand import NotNegative, Number, Positive, found

MOST_TOKENS = 100_000_000
_Z99 = NormalDist().inv_cdf(0.99)
_SAMPLES = 4096
_EVERYTHING = (0.0, 1e9)


class Fixed(Spec):
    """Always the same."""

    kind: Literal["fixed"] = "fixed"
    value: NotNegative = Field(description="the value")

    def draw(self, rng: np.random.Generator) -> float:
        """The value; *rng* is left alone."""
        return self.value

    def expected(self) -> float:
        """The expected value."""
        return self.value


class _Spread(Spec):
    """A distribution whose draws are moved into [min, max]."""

    min: NotNegative = Field(default=_EVERYTHING[0], description="smaller draws become this")
    max: Positive = Field(default=_EVERYTHING[1], description="larger draws become this")

    @model_validator(mode="after")
    def _ordered(self) -> _Spread:
        if self.min > self.max:
            raise InputError(f"min ({self.min:g}) lies above max ({self.max:g})")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        return min(max(self._draw(rng), self.min), self.max)

    def expected(self) -> float:
        """The expected value; where min or max cut, the mean of 4,096 draws of a fixed seed."""
        if (self.min, self.max) == _EVERYTHING:
            return self._expected()
        rng = np.random.default_rng(0)
        return sum(self.draw(rng) for _ in range(_SAMPLES)) / _SAMPLES

    def _draw(self, rng: np.random.Generator) -> float:
        raise NotImplementedError

    def _expected(self) -> float:
        raise NotImplementedError


class Uniform(Spec):
    """Every value between two is as likely."""

    kind: Literal["uniform"]
    low: NotNegative = Field(description="the least value")
    high: NotNegative = Field(description="the greatest value")

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.low > self.high:
            raise InputError(f"low ({self.low:g}) lies above high ({self.high:g})")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        return float(rng.uniform(self.low, self.high))

    def expected(self) -> float:
        """The expected value."""
        return (self.low + self.high) / 2


class Lognormal(_Spread):
    """Long-tailed: its logarithm is normal. Give one of median or mean, one of sigma or p99."""

    kind: Literal["lognormal"]
    median: Positive | None = Field(default=None, description="half of the draws lie below")
    mean: Positive | None = Field(default=None, description="the expected value")
    sigma: Annotated[float, Field(ge=0, le=5)] | None = Field(
        default=None, description="standard deviation of the logarithm"
    )
    p99: Positive | None = Field(default=None, description="one draw in a hundred lies above")

    @model_validator(mode="after")
    def _determined(self) -> Lognormal:
        if (self.median is None) == (self.mean is None):
            raise InputError("lognormal takes one of median and mean")
        if (self.sigma is None) == (self.p99 is None):
            raise InputError("lognormal takes one of sigma and p99")
        self._parameters()
        return self

    def _parameters(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm."""
        centre = self.median or self.mean or 1.0
        if self.sigma is not None:
            sigma = self.sigma
        else:
            ratio = log((self.p99 or 1.0) / centre)
            most = _Z99 * _Z99 / 2 if self.median is None else 5 * _Z99
            if not 0 <= ratio <= most:
                raise InputError(
                    f"no lognormal has p99 / {'mean' if self.median is None else 'median'} = "
                    f"{exp(ratio):.4g}",
                    help=f"it must lie in 1 .. {exp(most):.4g}",
                )
            # with the mean given: mu = ln mean - s²/2 and mu + z s = ln p99
            sigma = ratio / _Z99 if self.median else _Z99 - sqrt(_Z99 * _Z99 - 2 * ratio)
        return log(centre) - (sigma * sigma / 2 if self.median is None else 0.0), sigma

    def _draw(self, rng: np.random.Generator) -> float:
        return float(rng.lognormal(*self._parameters()))

    def _expected(self) -> float:
        mu, sigma = self._parameters()
        return exp(mu + sigma * sigma / 2)


class Gamma(_Spread):
    """Positive, as spread as wanted: cv is standard deviation / mean (1: exponential)."""

    kind: Literal["gamma"]
    mean: Positive = Field(description="the expected value")
    cv: Annotated[float, Field(gt=0, le=100)] = Field(description="standard deviation / mean")

    def _draw(self, rng: np.random.Generator) -> float:
        shape = 1 / (self.cv * self.cv)
        return float(rng.gamma(shape, self.mean / shape))

    def _expected(self) -> float:
        return self.mean


class Exponential(_Spread):
    """Memoryless."""

    kind: Literal["exponential"]
    mean: Positive = Field(description="the expected value")

    def _draw(self, rng: np.random.Generator) -> float:
        return float(rng.exponential(self.mean))

    def _expected(self) -> float:
        return self.mean


class Geometric(_Spread):
    """How many tries until one succeeds: 1, 2, 3, … with a given mean."""

    kind: Literal["geometric"]
    mean: Annotated[float, Field(ge=1, le=1e9)] = Field(description="the expected value, 1 or more")

    def _draw(self, rng: np.random.Generator) -> float:
        return float(rng.geometric(1 / self.mean))

    def _expected(self) -> float:
        return self.mean


class Choice(Spec):
    """One of a few values."""

    kind: Literal["choice"]
    values: tuple[NotNegative, ...] = Field(min_length=1, max_length=10_000, description="which")
    weights: tuple[NotNegative, ...] | None = Field(
        default=None, description="how likely, one for each value; equally when left out"
    )

    @model_validator(mode="after")
    def _paired(self) -> Choice:
        if self.weights is not None:
            if len(self.weights) != len(self.values):
                raise InputError(f"{len(self.values)} values and {len(self.weights)} weights")
            if sum(self.weights) == 0:
                raise InputError("at least one weight must be above 0")
        return self

    def _shares(self) -> tuple[float, ...]:
        weights = self.weights or (1.0,) * len(self.values)
        return tuple(weight / sum(weights) for weight in weights)

    def draw(self, rng: np.random.Generator) -> float:
        """One of the values."""
        at = rng.random()
        for value, share in zip(self.values, self._shares(), strict=True):
            at -= share
            if at < 0:
                return value
        return self.values[-1]

    def expected(self) -> float:
        """The expected value."""
        return sum(v * s for v, s in zip(self.values, self._shares(), strict=True))


class Empirical(Spec):
    """Values drawn, with replacement, from a column of a file."""

    kind: Literal["empirical"]
    file: str = Field(description="a trace of any format, a CSV file, or one number a line")
    column: str = Field(
        default="input",
        description="input or output (tokens of a trace), or the name of a CSV column",
    )
    _values: tuple[float, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _load(self, info: ValidationInfo) -> Empirical:
        path = found(self.file, (info.context or {}).get("folders", (Path(),)))
        if path is None:
            raise InputError(f"no file {self.file}")
        self._values = column(path, self.column)
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One of the values."""
        return self._values[int(rng.integers(len(self._values)))]

    def expected(self) -> float:
        """The mean of the values."""
        return sum(self._values) / len(self._values)


Distribution = Annotated[
    Annotated[
        Fixed | Uniform | Lognormal | Gamma | Exponential | Geometric | Choice | Empirical,
        Field(discriminator="kind"),
    ],
    Number("fixed", "value"),
]


def fixed(value: float) -> Fixed:
    """The distribution that a bare number stands for; for defaults."""
    return Fixed(value=value)


def tokens(of: Distribution, rng: np.random.Generator, *, least: int = 1) -> int:
    """A whole number of tokens, *least* to 100 million."""
    return min(max(round(of.draw(rng)), least), MOST_TOKENS)
