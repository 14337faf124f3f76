"""Orders that learn what a request needs from what it has had: round-robin and feedback queues."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar
from weakref import WeakKeyDictionary

from ...registry import order
from ...types import PS_PER_S, Picoseconds, Promise, SequenceView
from ..base import NEVER
from .check import at_least


def answered(seq: SequenceView) -> int:
    """Tokens of the answer so far."""
    return seq.known_tokens - seq.request.prompt_tokens


@order("round-robin")
@dataclass(slots=True)
class RoundRobin:
    """Whoever has had fewest turns; a turn is `quantum_tokens` tokens of answer.

    With the scheduler `preemptive` this is time slicing; else only preempted requests have had any.
    """

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)

    quantum_tokens: int = 64

    def __post_init__(self) -> None:
        at_least(1, self, "quantum_tokens")

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[int, int]:
        """Turns, then arrival."""
        return (answered(seq) // self.quantum_tokens, seq.request.arrival_ps)


@order("mlfq")
@dataclass(slots=True)
class SkipJoinMlfq:
    """Multi-level feedback queue with skip-join, for the scheduler `preemptive` (FastServe).

    A level's quantum is twice that of the one above. A request joins the first level whose quantum
    covers its first iteration, the prefill; it sinks a level whenever it has used up its quantum
    there; one that has waited too long returns to the top. Service is counted in iterations of
    decode. Method: Wu et al., FastServe, arXiv:2305.05920, §4.1.

    Attributes:
        quantum_steps: of the top level, in decode steps.
        levels: how many there are; the last has no quantum.
        prefill_tokens_per_step: prompt tokens that take as long as a decode step.
        promote_after_s: waiting time after which a request returns to the top; 0: never.
    """

    promise: ClassVar[Promise] = Promise(dynamic=True, exportable=True)

    quantum_steps: int = 8
    levels: int = 6
    prefill_tokens_per_step: int = 256
    promote_after_s: float = 10.0

    #: those that waited too long -> steps they had had by then
    _promoted: WeakKeyDictionary[SequenceView, int] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )

    def __post_init__(self) -> None:
        at_least(1, self, "quantum_steps", "levels", "prefill_tokens_per_step")
        at_least(0, self, "promote_after_s")

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[int, int]:
        """Level, then arrival."""
        if seq.is_waiting and self._promotion_ps(seq) <= now:
            self._promoted[seq] = self._served(seq)
        return (self.level(seq), seq.request.arrival_ps)

    def changes_ps(self, seq: SequenceView, now: Picoseconds) -> Picoseconds:
        """When it has waited long enough to be promoted."""
        promotion = self._promotion_ps(seq)
        return promotion if promotion > now else NEVER

    def _promotion_ps(self, seq: SequenceView) -> Picoseconds:
        if not self.promote_after_s:
            return NEVER
        return seq.queued_ps + round(self.promote_after_s * PS_PER_S)

    def _served(self, seq: SequenceView) -> int:
        """Decode steps that it has had, the prefill counted in them."""
        first = -(-seq.request.prompt_tokens // self.prefill_tokens_per_step)
        return first + answered(seq) - 1 if answered(seq) else 0

    def level(self, seq: SequenceView) -> int:
        """Where its prompt lets it join (the top, if promoted), and how far it has sunk since."""
        level, quantum, last = 0, self.quantum_steps, self.levels - 1
        promoted = self._promoted.get(seq)
        served = self._served(seq) - (promoted or 0)
        if promoted is None:
            first = -(-seq.request.prompt_tokens // self.prefill_tokens_per_step)
            while quantum < first and level < last:
                level, quantum = level + 1, 2 * quantum
        while served >= quantum and level < last:
            served -= quantum
            level, quantum = level + 1, 2 * quantum
        return level
