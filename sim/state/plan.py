"""What one engine step computes: the immutable outcome of scheduling, for host and log."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...policies.types import Picoseconds
from .connector import Remote
from .sequence import Sequence
from .swap import Swap


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


class Padding(NamedTuple):
    """What a step computes that no request needs.

    Attributes:
        to: tokens that every prompt of the step is padded to; 0: none is.
        rows: rows of one token, beside those of the requests.
        context_tokens: KV tokens that are read.
        growth: how many more of these each of the repeated steps reads.
    """

    to: int = 0
    rows: int = 0
    context_tokens: int = 0
    growth: int = 0


class StepPlan:
    """One step (or `repeat` equal ones) of one replica.

    Attributes:
        index: number of the step on its replica, counting executed steps only.
        chunks: per sequence, in scheduling order, without the decode group.
        group: sequences of the decode group, one token each.
        group_context_tokens: KV tokens that the group reads in the first of the steps.
        group_contexts: the shortest and the longest context among these, only where the replica
            measures them.
        group_adapted: how many of the group have a LoRA adapter.
        group_structured: how many of the group have a grammar.
        members: the group in order of admission, only where the replica logs members.
        tokens: all tokens of one step.
        repeat: how many times the group's step is taken (a leap); 1 unless the plan is only group.
        planned_ps: when the j-th of the repeated steps is planned, as the host knows.
        padding: what a static batch computes beyond its requests' tokens; None: nothing.
        preempted, admissions: in the order in which they happened.
        swaps: KV that is copied before the step, in order · `copying_ps`: what that delays it by.
        encoder: (sequence, item indices) computed by the encoder.
        encoder_evicted: identifiers that left the encoder cache.
    """

    __slots__ = (
        "admissions",
        "chunks",
        "copying_ps",
        "encoder",
        "encoder_evicted",
        "group",
        "group_adapted",
        "group_context_tokens",
        "group_contexts",
        "group_structured",
        "index",
        "members",
        "padding",
        "planned_ps",
        "preempted",
        "repeat",
        "swaps",
        "tokens",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.chunks: list[Chunk] = []
        self.preempted: list[Sequence] = []
        self.admissions: list[Admission] = []
        self.group = self.group_context_tokens = self.tokens = 0
        self.group_adapted = self.group_structured = 0
        self.group_contexts: tuple[int, int] | None = None
        self.members: list[Sequence] | None = None
        self.padding: Padding | None = None
        self.repeat = 1
        self.planned_ps: Callable[[int], Picoseconds] | None = None
        self.swaps: list[Swap] | tuple[()] = ()
        self.copying_ps: Picoseconds = 0
        self.encoder: list[tuple[Sequence, list[int]]] | tuple[()] = ()
        self.encoder_evicted: list[int] | tuple[()] = ()

    @property
    def line(self) -> tuple[int, int, int]:
        """Of pure decode: (rows, KV tokens that they read, how many more in each repetition)."""
        pad = self.padding
        if pad is None:
            return self.group, self.group_context_tokens, self.group
        return (
            self.group + pad.rows,
            self.group_context_tokens + pad.context_tokens,
            self.group + pad.growth,
        )

    @property
    def contexts(self) -> tuple[int, int]:
        """Of pure decode: the shortest and the longest context; (0, 0): alike, or not measured."""
        if self.padding is not None or self.group_contexts is None:
            return (0, 0)
        return self.group_contexts

    @property
    def computed_tokens(self) -> int:
        """Tokens that the step computes, those that no request needs included."""
        pad = self.padding
        if pad is None:
            return self.tokens
        wider = sum(max(pad.to - one.start - one.tokens, 0) for one in self.chunks)
        return self.tokens + pad.rows + wider

    @property
    def pure_decode(self) -> bool:
        """Whether the decode group is all there is, so that the plan may repeat."""
        return self.group > 0 and not (
            self.chunks or self.preempted or self.admissions or self.encoder
        )
