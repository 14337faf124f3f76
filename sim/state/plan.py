"""What one engine step computes: the immutable outcome of scheduling, for host and log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .connector import Remote
from .sequence import Sequence


class Chunk(NamedTuple):
    """Tokens of one sequence in one step. A decode is a chunk of one token.

    Attributes:
        start: KV positions computed before.
        tokens: positions computed in this step, drafts included.
        drafts: speculative rows among them.
        samples: whether the step reaches the end of the known tokens and samples.
        admitted: None for a sequence that was running; else whether it was preempted before.
    """

    seq: Sequence
    start: int
    tokens: int
    drafts: int
    samples: bool
    admitted: bool | None


class Admission(NamedTuple):
    """A prefix lookup that led to an allocation.

    Attributes:
        queried: tokens known at the time.
        local: tokens found in the replica's own cache.
        remote: what is fetched from elsewhere.
        resumed: the sequence had been preempted before.
    """

    seq: Sequence
    queried: int
    local: int
    remote: Remote
    resumed: bool


@dataclass(slots=True)
class StepPlan:
    """One step (or `repeat` equal ones) of one replica.

    Attributes:
        index: number of the step on its replica, counting executed steps only.
        chunks: per sequence, in scheduling order, without the decode group.
        group: sequences of the decode group, one token each.
        group_context_tokens: KV tokens that the group reads in the first of the steps.
        members: the group in order of admission, only where the replica logs members.
        tokens: all tokens of one step.
        repeat: how many times the group's step is taken (a leap); 1 unless the plan is only group.
        preempted, admissions: in the order in which they happened.
        encoder: (sequence, item indices) computed by the encoder.
        encoder_evicted: identifiers that left the encoder cache.
    """

    index: int
    chunks: list[Chunk] = field(default_factory=list)
    group: int = 0
    group_context_tokens: int = 0
    members: list[Sequence] | None = None
    tokens: int = 0
    repeat: int = 1
    preempted: list[Sequence] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    encoder: list[tuple[Sequence, list[int]]] = field(default_factory=list)
    encoder_evicted: list[int] = field(default_factory=list)

    @property
    def pure_decode(self) -> bool:
        """Whether the decode group is all there is, so that the plan may repeat."""
        return self.group > 0 and not (
            self.chunks or self.preempted or self.admissions or self.encoder
        )
