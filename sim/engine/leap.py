"""When the steps of a leap end: closed forms over integers, so any grouping gives equal times."""

from __future__ import annotations

from math import sqrt

from ...policies.types import Picoseconds
from ..cost.grades import Doubt


class Span:
    """Equal steps back to back whose durations grow linearly.

    Step j (from 0) lasts ``first_ps + j * growth_ps``.

    Attributes:
        start_ps: when the first step begins.
        first_ps: duration of the first step.
        growth_ps: how much longer each step is than the one before.
        end_ps: when the last of the steps that are planned ends; kept by the owner.
        doubt: how their time is graded; None: the cost does not say.
    """

    __slots__ = ("doubt", "end_ps", "first_ps", "growth_ps", "start_ps")

    def __init__(
        self,
        start_ps: Picoseconds,
        first_ps: Picoseconds,
        growth_ps: Picoseconds,
        doubt: Doubt | None = None,
    ) -> None:
        self.start_ps, self.first_ps, self.growth_ps = start_ps, first_ps, growth_ps
        self.end_ps = start_ps + first_ps
        self.doubt = doubt

    def end(self, steps: int) -> Picoseconds:
        """When *steps* steps have ended."""
        return self.start_ps + steps * self.first_ps + self.growth_ps * (steps * (steps - 1) >> 1)

    def steps_by(self, time_ps: Picoseconds) -> int:
        """The fewest steps whose end is not before *time_ps*."""
        passed, first, growth = time_ps - self.start_ps, self.first_ps, self.growth_ps
        if passed <= 0:
            return 0
        if passed <= first:
            return 1
        # the root is a guess; integers decide
        half = first - 0.5 * growth
        steps = passed // first
        if growth:
            steps = int((sqrt(half * half + 2.0 * growth * passed) - half) / growth)
        while self.end(steps) < time_ps:
            steps += 1
        while steps > 1 and self.end(steps - 1) >= time_ps:
            steps -= 1
        return steps
