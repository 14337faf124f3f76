"""Which of several shared things: the first is the most popular."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ..schema.base import Spec
from .shorthand import Few


class Popularity(Spec):
    """So many things, the k-th of them drawn in proportion to 1 / k**zipf."""

    count: Few = Field(default=1, description="how many different ones there are")
    zipf: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.0, description="0: all as popular; 1: the k-th is k times rarer than the first"
    )

    @cached_property
    def _cumulative(self) -> npt.NDArray[np.float64]:
        return np.cumsum(np.arange(1, self.count + 1, dtype=np.float64) ** -self.zipf)

    def pick(self, rng: np.random.Generator) -> int:
        """The index of one of them, from 0."""
        return self.at(rng.random())

    def at(self, draw: float) -> int:
        """The index that a number from 0 to 1 stands for."""
        cumulative = self._cumulative
        return int(np.searchsorted(cumulative, draw * cumulative[-1], side="right"))
