"""Step times that are off by a factor, to see what a result rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp

from ...policies.types import Picoseconds
from .base import EVEN, Contexts, DecodeLine, GradedCost, StepCost, StepShape
from .grades import Doubt, LineDoubt
from .prediction import GRADE_SIGMA
from .tables import TableCost


@dataclass(frozen=True)
class ScaledCost:
    """*cost* with every duration multiplied by *factor*, rounded to whole picoseconds."""

    cost: StepCost
    factor: float
    _doubts: dict[LineDoubt, LineDoubt] = field(default_factory=dict, repr=False, compare=False)

    @property
    def source(self) -> str:
        """That of *cost*, and the factor."""
        return f"{self.cost.source} × {self.factor:g}"

    @property
    def uneven(self) -> bool:
        """As *cost*."""
        return self.cost.uneven

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        """For pure decode on `decode_line`, so that both agree to the picosecond."""
        decodes, context, prefills, samples, images, contexts, adapted, structured = shape
        if not prefills and samples == decodes > 0 and not images:
            line = self.decode_line(decodes, context, contexts, adapted, structured)
            return line.base_ps + line.slope_ps * context
        return max(1, round(self.cost.duration_ps(shape) * self.factor))

    def timed(self, shape: StepShape) -> tuple[Picoseconds, Doubt]:
        """`duration_ps`, graded as *cost* grades it; not at all if it does not."""
        if not isinstance(self.cost, GradedCost):
            return self.duration_ps(shape), ()
        _, doubt = self.cost.timed(shape)
        return self.duration_ps(shape), self._doubt(doubt)

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        """Base and slope are scaled, each rounded."""
        line = self.cost.decode_line(decodes, context_tokens, contexts, adapted, structured)
        base, slope, until, doubt = line
        base_ps, slope_ps = round(base * self.factor), round(slope * self.factor)
        return DecodeLine(base_ps or 1, slope_ps, until, doubt and self._line_doubt(doubt))

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        """Scaled and rounded."""
        return round(self.cost.prefill_ps(tokens, context_tokens) * self.factor)

    def joint_ps(self, tokens: int) -> Picoseconds:
        """Scaled and rounded."""
        return round(self.cost.joint_ps(tokens) * self.factor)

    def _doubt(self, doubt: Doubt) -> Doubt:
        if isinstance(doubt, LineDoubt):
            return self._line_doubt(doubt)
        return tuple([round(ps * self.factor) for ps in doubt])

    def _line_doubt(self, doubt: LineDoubt) -> LineDoubt:
        found = self._doubts.get(doubt)
        if found is None:
            base = [round(ps * self.factor) for ps in doubt.base]
            base[doubt.grade] += (round(doubt.base_ps * self.factor) or 1) - sum(base)
            found = self._doubts[doubt] = LineDoubt(base, doubt.grade)
        return found


def scaled(cost: StepCost, factor: float) -> StepCost:
    """*cost* with all steps *factor* times as long."""
    return ScaledCost(cost, factor)


def perturbed(cost: StepCost, draws: Mapping[str, float]) -> StepCost:
    """*cost* as it may be in truth, one draw of its error.

    Args:
        draws: standard normal numbers by family of operations, and for "host" and "roofline".
            Each table's level is multiplied by exp(sigma * draw of its family), with the sigma of
            the table, or that of a datasheet for what is filled. A cost without tables is scaled
            as a whole.
    """
    if isinstance(cost, TableCost):
        return cost.perturbed(draws)
    return ScaledCost(cost, exp(GRADE_SIGMA["datasheet"] * draws["roofline"]))
