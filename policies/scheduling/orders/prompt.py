"""Short prompts first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...registry import order
from ...types import PS_PER_S, Picoseconds, Promise, SequenceView
from .check import at_least


@order("shortest-prefill-first")
@dataclass(slots=True)
class ShortestPrefillFirst:
    """The shortest prompt first; with aging, waiting a second is worth so many tokens.

    Attributes:
        aging_tokens_per_s: 0 starves long prompts behind a stream of short ones. What a request
            gains by waiting all gain alike, so this only moves it by its arrival: the key is fixed.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)

    aging_tokens_per_s: float = 0.0

    def __post_init__(self) -> None:
        at_least(0, self, "aging_tokens_per_s")

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[float, int]:
        """Prompt tokens, less what it has gained since it arrived, up to a common constant."""
        arrival_ps = seq.request.arrival_ps
        aged = self.aging_tokens_per_s * (arrival_ps / PS_PER_S)
        return (seq.request.prompt_tokens + aged, arrival_ps)
