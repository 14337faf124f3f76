"""A plan as a cost model sees it."""

from __future__ import annotations

from ..state.plan import StepPlan
from .base import StepShape


def shape_of(plan: StepPlan) -> StepShape:
    """The work of a plan, as much of it as its duration depends on."""
    decodes, context = plan.group, plan.group_context_tokens
    prefills: list[tuple[int, int]] = []
    samples = plan.group
    for chunk in plan.chunks:
        if chunk.tokens == 1:
            decodes += 1
            context += chunk.start + 1
        else:
            prefills.append((chunk.tokens, chunk.start))
        samples += chunk.samples * (1 + chunk.drafts)
    image_tokens = sum(
        seq.request.items[index].tokens for seq, items in plan.encoder for index in items
    )
    return StepShape(decodes, context, tuple(prefills), samples, image_tokens)
