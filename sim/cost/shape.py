"""A plan as a cost model sees it."""

from __future__ import annotations

from ..state.plan import StepPlan
from .base import StepShape


def shape_of(plan: StepPlan) -> StepShape:
    """The work of a plan, padding included, as much of it as its duration depends on."""
    decodes, context, _ = plan.line
    prefills: list[tuple[int, int]] = []
    samples = decodes
    for chunk in plan.chunks:
        tokens = max(chunk.tokens, plan.pad_to - chunk.start)
        if tokens == 1:
            decodes += 1
            context += chunk.start + 1
        else:
            prefills.append((tokens, chunk.start))
        samples += chunk.samples * (1 + chunk.drafts)
    image_tokens = sum(
        seq.request.items[index].tokens for seq, items in plan.encoder for index in items
    )
    return StepShape(decodes, context, tuple(prefills), samples, image_tokens)
