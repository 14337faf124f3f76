"""vLLM's V1 scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import scheduling
from ..types import Promise, Request
from .base import (
    Handle,
    Preemption,
    Prefix,
    ReplicaView,
    Step,
    Victim,
    check_preemption,
    choose_victim,
)
from .order import LastAdmitted
from .reserve import refusal


@scheduling("vllm-v1")
@dataclass(slots=True)
class VllmV1:
    """Running requests first, then waiting ones, in one mixed batch (vLLM 0.33).

    There is no prefill or decode phase: every step brings requests up to date as far as the
    token budget goes. Method: vllm `v1/core/sched/scheduler.py`, `Scheduler.schedule`; it decides
    as recorded from the real scheduler (`infersim conform`).

    Attributes:
        chunked_prefill: a prompt may be computed over several steps.
        long_prefill_token_threshold: most prompt tokens of one request in a step; 0: no limit.
        adaptive_long_prefill: never cut below an even share of the budget.
        max_num_active_seqs: admit only below this many running; None: max_num_seqs.
        watermark: share of KV blocks that admission leaves free.
        reserve_full_isl: admit only what fits in KV whole, not just its first chunk.
        prefill_schedule_interval: at least this many steps between prefills while others decode.
        preemption: `recompute`; vLLM 0.33 has no other. `swap` copies KV to host memory instead.
        victim: who is preempted when KV runs out; set by the host from the scenario.
    """

    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    adaptive_long_prefill: bool = False
    max_num_active_seqs: int | None = None
    watermark: float = 0.0
    reserve_full_isl: bool = True
    prefill_schedule_interval: int = 1
    preemption: Preemption = "recompute"
    victim: Victim = field(default_factory=LastAdmitted, metadata={"host": True})

    promise: ClassVar[Promise] = Promise(repeats=True)

    _last_prefill_step: int = field(init=False, repr=False)
    _capacity_bound: bool = field(default=False, init=False, repr=False)
    _stable: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._last_prefill_step = -self.prefill_schedule_interval
        check_preemption(self.preemption)
        if self.long_prefill_token_threshold < 0:
            raise ValueError(
                f"long_prefill_token_threshold must not be negative, "
                f"found {self.long_prefill_token_threshold}"
            )
        if self.max_num_active_seqs is not None and self.max_num_active_seqs < 1:
            raise ValueError(f"max_num_active_seqs must be at least 1: {self.max_num_active_seqs}")
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"watermark must be in [0, 1), found {self.watermark}")
        if self.prefill_schedule_interval < 1:
            raise ValueError(
                f"prefill_schedule_interval must be at least 1: {self.prefill_schedule_interval}"
            )

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Plan one step."""
        cap = self._long_prefill_cap(view) if self.long_prefill_token_threshold else 0
        defer = self.prefill_schedule_interval > 1 and self._defers(view)
        preempted, prefilled = self._serve_running(view, step, cap, defer)
        self._stable = not preempted
        if not preempted:
            prefilled |= self._serve_waiting(view, step, cap, defer, prefilled)
            if not defer and self.prefill_schedule_interval > 1:
                self._capacity_bound = view.waiting_ready_count > 0
        if prefilled and self.prefill_schedule_interval > 1:
            self._last_prefill_step = view.executed_steps + 1

    def refuses(self, view: ReplicaView, request: Request) -> str:
        """Why *request* can never be served; "" if it can."""
        whole = None if self.chunked_prefill else view.max_num_batched_tokens
        return refusal(view, request, "nothing", whole)

    def repeats(self, view: ReplicaView) -> bool:
        """A pure decode step repeats while the head of the line stays blocked."""
        return self._stable and self.prefill_schedule_interval == 1

    @property
    def _swaps(self) -> bool:
        return self.preemption == "swap"

    def _long_prefill_cap(self, view: ReplicaView) -> int:
        """Most tokens of a long prompt that one step computes; 0: as many as there are."""
        requests = len(view.running) + view.waiting_count
        if requests <= 1:
            return 0
        if self.adaptive_long_prefill:
            share = view.max_num_batched_tokens // requests
            return max(self.long_prefill_token_threshold, share)
        return self.long_prefill_token_threshold

    def _defers(self, view: ReplicaView) -> bool:
        """Whether prefills wait for the next release of their cadence."""
        return (
            not self._capacity_bound
            and view.executed_steps + 1 - self._last_prefill_step < self.prefill_schedule_interval
            and view.decoding
        )

    def _serve_running(
        self, view: ReplicaView, step: Step, cap: int, defer: bool
    ) -> tuple[bool, bool]:
        """Returns whether anyone was preempted, and whether a prefill chunk was computed."""
        before = step.preemptions
        takes_last = isinstance(self.victim, LastAdmitted)
        if step.take_decodes(last_gives_way=takes_last, swap=self._swaps):
            queue = list(view.prefilling)
        else:
            queue = list(view.running)
        preempted, prefilled = step.preemptions > before, False
        i = 0
        while i < len(queue) and step.budget > 0:
            seq = queue[i]
            is_chunk = seq.is_chunk
            tokens = 0 if defer and is_chunk else step.wanted(seq)
            if 0 < cap < tokens:
                tokens = cap
            tokens = min(tokens, step.budget)
            if tokens > 0:
                tokens = step.encodable(seq, seq.computed_tokens, tokens)
            if tokens <= 0:
                i += 1
                continue
            while not step.take(seq, tokens):
                loser = choose_victim(self.victim, list(view.running))
                if not step.preempt(loser, swap=self._swaps):
                    return preempted, prefilled
                at = queue.index(loser)
                del queue[at]
                if at < i:
                    i -= 1
                preempted = True
                if loser is seq:
                    break
            else:
                prefilled |= is_chunk
                i += 1
        return preempted, prefilled

    def _serve_waiting(
        self, view: ReplicaView, step: Step, cap: int, defer: bool, prefilled: bool
    ) -> bool:
        """Returns whether a prompt with more than its last token to go was admitted."""
        most = view.max_num_seqs
        if self.max_num_active_seqs is not None:
            most = min(most, self.max_num_active_seqs)
        admitted_prefill = False
        while step.budget > 0 and len(view.running) < most:
            seq = step.next_waiting()
            if seq is None:
                break
            prefix = step.prefix(seq)
            if prefix is None:
                self._stable = False
                continue
            if prefix.asynchronous:
                if not self._load(view, step, seq):
                    self._stable &= not prefix.may_grow
                    break
                continue
            left = seq.known_tokens - prefix.tokens
            if defer and left > 1:
                break
            tokens, drafts = self._first_chunk(view, step, prefix, left, cap, prefilled)
            if tokens == 0:
                self._stable &= not prefix.may_grow
                break
            tokens = step.encodable(seq, prefix.tokens, tokens)
            if tokens == 0:
                self._stable = False
                step.put_aside(seq)
                continue
            if not self._admit(view, step, seq, tokens, drafts):
                self._stable &= not prefix.may_grow
                break
            admitted_prefill |= left > 1
            self._admitted(step, seq)
        return admitted_prefill

    def _admit(self, view: ReplicaView, step: Step, seq: Handle, tokens: int, drafts: int) -> bool:
        return step.admit(
            seq, tokens, whole=self.reserve_full_isl, watermark=self.watermark, drafts=drafts
        )

    def _load(self, view: ReplicaView, step: Step, seq: Handle) -> bool:
        return step.load(seq, whole=self.reserve_full_isl, watermark=self.watermark)

    def _admitted(self, step: Step, seq: Handle) -> None:
        """For schedulers that count: *seq* has just joined the batch."""

    def _first_chunk(
        self,
        view: ReplicaView,
        step: Step,
        prefix: Prefix,
        left: int,
        cap: int,
        prefilled: bool,
    ) -> tuple[int, int]:
        """Tokens of a request that is admitted now, and padding rows among them; 0: stop here."""
        drafts = step.padding(left, prefix.tokens) if not prefilled else 0
        tokens = left + drafts
        if drafts and tokens > step.budget:
            return 0, 0
        if 0 < cap < tokens:  # vLLM stops with an assertion where that cuts the padding
            tokens, drafts = min(cap, left), 0
        if not self.chunked_prefill and step.budget < tokens <= view.max_num_batched_tokens:
            return 0, 0  # one that no step holds was preempted, and is computed again in pieces
        return min(tokens, step.budget), drafts
