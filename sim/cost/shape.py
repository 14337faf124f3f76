"""A plan as a cost model sees it."""

from __future__ import annotations

from ...policies.types import Picoseconds
from ..state.plan import StepPlan
from .base import EVEN, Contexts, GradedCost, StepCost, StepShape
from .grades import Doubt


def shape_of(plan: StepPlan) -> StepShape:
    """The work of a plan, padding included, as much of it as its duration depends on."""
    decodes, context, _ = plan.line
    prefills: list[tuple[int, int]] = []
    alone: list[int] = []
    samples, adapted = decodes, plan.group_adapted
    pad_to = plan.padding.to if plan.padding is not None else 0
    structured = plan.group_structured
    for seq, start, tokens, drafts, sampling, _ in plan.chunks:
        if seq.lora:
            adapted += tokens
        if pad_to:
            tokens = max(tokens, pad_to - start)
        if tokens == 1:
            decodes += 1
            context += start + 1
            alone.append(start + 1)
        else:
            prefills.append((tokens, start))
        if sampling:
            samples += 1 + drafts
            if seq.grammar is not None:
                structured += 1 + drafts
    images: tuple[int, ...] = ()
    if plan.encoder:
        items = [(seq, index) for seq, found in plan.encoder for index in found]
        images = tuple([seq.items[index].tokens for seq, index in items])
    contexts = _contexts(plan, alone) if alone or plan.group_contexts else EVEN
    return StepShape(
        decodes, context, tuple(prefills), samples, images, contexts, adapted, structured
    )


def _contexts(plan: StepPlan, alone: list[int]) -> Contexts:
    """The ends of the contexts of the group, where they were measured, and of those beside it."""
    shortest, longest = plan.contexts
    idle_rows = plan.padding is not None and plan.padding.rows > 0
    if idle_rows or (plan.group and not longest) or not (longest or alone):
        return EVEN
    if not alone:
        return shortest, longest
    return min(shortest or alone[0], *alone), max(longest, *alone)


def timed(cost: StepCost, plan: StepPlan) -> tuple[Picoseconds, Doubt | None]:
    """The time of one step of a plan, and how it was come by; None: the cost does not say."""
    if plan.pure_decode:
        rows, context, _ = plan.line
        base, slope, _, doubt = cost.decode_line(
            rows, context, plan.contexts, plan.group_adapted, plan.group_structured
        )
        return base + slope * context, doubt
    if isinstance(cost, GradedCost):
        return cost.timed(shape_of(plan))
    return cost.duration_ps(shape_of(plan)), None
