"""Batches that run until all of them have ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import scheduling
from ..types import PS_PER_S, Picoseconds, Promise, Request
from .base import Handle, ReplicaView, Step
from .reserve import Reserve, check_reserve, most_tokens, refusal, reserved_tokens


@scheduling("static-batch")
@dataclass(slots=True)
class StaticBatch:
    """Those who wait form a batch, and nobody joins it before all of it have ended.

    The baseline that continuous batching is measured against: FasterTransformer behind a server
    that batches, CTranslate2, `generate` of Transformers, TensorRT-LLM's STATIC_BATCH. Method: as
    request-level scheduling in Yu et al., Orca, OSDI'22, section 3.

    Who waits when a batch begins is of it, as far as KV and the batch size go. One that is padded,
    or answered together, is also limited by the budget of the step that computes its prompts.

    Attributes:
        pad_prompts: every row is as long as the longest, in compute and in KV.
        pad_ended: who has ended is computed on, and keeps its KV, until the batch has ended.
        together: all are answered when the batch has ended; first tokens count when computed.
        max_queue_delay_s: wait so long for a full batch; 0: take whoever waits.
        reserve: KV that is set aside at admission, so that the batch can run to its end.
        hold: take that KV at once.
    """

    pad_prompts: bool = False
    pad_ended: bool = False
    together: bool = False
    max_queue_delay_s: float = 0.0
    reserve: Reserve = "answer"
    hold: bool = True

    promise: ClassVar[Promise] = Promise(repeats=True)

    _due: Picoseconds = field(default=0, init=False, repr=False)
    _began: Picoseconds = field(default=0, init=False, repr=False)
    _open: bool = field(default=False, init=False, repr=False)  # prompts of the batch are left

    def __post_init__(self) -> None:
        check_reserve(self.reserve, self.hold)
        if self.reserve == "nothing":
            raise ValueError("a static batch needs KV to its end: reserve answer or context")
        if not 0 <= self.max_queue_delay_s <= 1e6:
            raise ValueError(f"max_queue_delay_s must be in [0, 1e6]: {self.max_queue_delay_s}")

    def refuses(self, view: ReplicaView, request: Request) -> str:
        """Why *request* can never be served; "" if it can."""
        return refusal(view, request, self.reserve, view.max_num_batched_tokens)

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Plan one step."""
        self._due = 0
        if view.running:
            self._go_on(view, step)
            if self._open:
                self._begin(view, step)
        elif view.waiting_count and not self._waits(view):
            self._began = view.now
            self._begin(view, step)

    def repeats(self, view: ReplicaView) -> bool:
        """Nobody joins, once the prompts of the batch are computed."""
        return not self._open

    def wakes_ps(self, view: ReplicaView) -> Picoseconds:
        """When those who wait for a full batch have waited long enough; 0: nobody does."""
        return self._due

    def _waits(self, view: ReplicaView) -> bool:
        delay = round(self.max_queue_delay_s * PS_PER_S)
        if not delay or view.waiting_count >= view.max_num_seqs:
            return False
        due = min((seq.queued_ps for seq in view.line), default=view.now) + delay
        self._due = due
        return due > view.now

    def _go_on(self, view: ReplicaView, step: Step) -> None:
        rest = view.prefilling if step.take_decodes(last_gives_way=True) else view.running
        for seq in list(rest):
            tokens = min(step.wanted(seq), step.budget)
            tokens = step.encodable(seq, seq.computed_tokens, tokens) if tokens > 0 else 0
            if tokens:
                step.take(seq, tokens)

    @property
    def _rectangle(self) -> bool:
        return self.pad_prompts or self.pad_ended or self.together

    def _begin(self, view: ReplicaView, step: Step) -> None:
        batch, width = self._choose(view, step)
        admitted = False
        for seq in batch:
            prefix = step.prefix(seq)
            if prefix is None:
                continue
            until = max(reserved_tokens(view, seq.request, self.reserve), width)
            if prefix.asynchronous:
                if not step.load(seq, whole=True, watermark=0.0, until=until, hold=self.hold):
                    break
                continue
            tokens = min(seq.known_tokens - prefix.tokens, step.budget)
            tokens = step.encodable(seq, prefix.tokens, tokens) if tokens else 0
            if not tokens:
                continue
            if not step.admit(seq, tokens, whole=True, watermark=0.0, until=until, hold=self.hold):
                self._open = False
                break
            admitted = True
        if admitted and self._rectangle:
            step.rectangle(
                pad_prompts=self.pad_prompts, pad_ended=self.pad_ended, together=self.together
            )

    def _choose(self, view: ReplicaView, step: Step) -> tuple[list[Handle], int]:
        """The first of the line that a step and KV hold; positions of a row, where it is padded."""
        batch: list[Handle] = []
        longest = total = answer = width = 0
        places = view.max_num_seqs - len(view.running)
        self._open = False
        for seq in list(view.line):
            if len(batch) == places:
                break
            if seq.queued_ps > self._began or not step.ready(seq):
                continue
            known, request = seq.known_tokens, seq.request
            longest, total = max(longest, known), total + known
            computed = longest * (len(batch) + 1) if self.pad_prompts else total
            answer = max(answer, most_tokens(view, request) - request.prompt_tokens)
            wide = min(longest + answer, view.max_model_len)
            blocks = -(-wide // view.block_size) * (len(batch) + 1) if self.pad_prompts else 0
            if (batch or view.running) and (computed > step.budget or blocks > view.free_blocks):
                self._open = not self._rectangle
                break
            batch.append(seq)
            width = wide if self.pad_prompts else 0
        return batch, width
