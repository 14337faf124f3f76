"""A static batch: requests that are computed together, as one rectangle, until the last has ended.

Engines without continuous batching compute rows that nobody needs: prompts are padded to the
longest, and whoever has ended goes on as a row of padding. What that adds to a step is a closed
form of the step's index, so a run of decode steps is one event here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .plan import Padding, StepPlan
from .sequence import Sequence


@dataclass(slots=True)
class Rectangle:
    """The batch and how it is padded.

    Attributes:
        first: step that computes its prompts.
        rows: requests that it began with.
        longest: tokens of the longest prompt.
        pad_prompts: every row is as long as the longest.
        pad_ended: rows of requests that have ended are computed, and keep their KV, to the end.
        together: all are answered when the last has ended.
        over: requests that have ended and are not answered yet, in the order in which they ended.
    """

    first: int
    rows: int
    longest: int
    pad_prompts: bool
    pad_ended: bool
    together: bool
    over: dict[Sequence, None] = field(default_factory=dict)

    def pad(self, plan: StepPlan) -> None:
        """Note in *plan* what it computes beyond its requests' tokens."""
        if plan.index == self.first:
            if self.pad_prompts:
                plan.padding = Padding(to=self.longest)
            return
        active = plan.group + len(plan.chunks)
        rows = self.rows if self.pad_ended else active
        idle, unread = rows - active, 0
        if self.pad_prompts:
            width = self.longest + plan.index - self.first
            read = sum(chunk.start + chunk.tokens for chunk in plan.chunks)
            unread = max(rows * width - read - plan.group_context_tokens, 0)
        if idle or unread:
            plan.padding = Padding(0, idle, unread, idle if self.pad_prompts else 0)
