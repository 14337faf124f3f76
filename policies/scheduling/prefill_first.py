"""Prompts before decodes: a step is a prefill of who waits, or else a decode of the batch."""

from __future__ import annotations

from collections.abc import Callable
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
from .reserve import Reserve, check_reserve, refusal, reserved_tokens


@scheduling("prefill-first")
@dataclass(slots=True)
class PrefillFirst:
    """Whoever waits is prefilled before anyone decodes on (vLLM V0, TGI, MLC-LLM).

    Prompts start soon, and every prefill is felt as a pause by those who decode. When KV runs out
    the victim is preempted: its KV is computed again later, or swapped to host memory; then no
    prompt is admitted until all who were swapped are back, which is tried after each decode step
    that preempted nobody. Method: vllm 0.6 `core/scheduler.py` `_schedule_default`,
    `_schedule_swapped`; text-generation-inference 2.4 `backends/v3/src/{backend,queue}.rs`; mlc-llm
    `cpp/serve/engine_actions/batch_prefill_base.cc`.

    Attributes:
        max_prefill_tokens: prompt tokens of a step; None: as many as the engine's budget.
        chunked_prefill: a prompt may be cut to what is left of them.
        waiting_served_ratio: prefill only for so many requests, as a share of the batch (TGI).
        max_waiting_tokens: after so many tokens without a prefill any number will do.
        alternate: a prefill beside a batch is followed by a decode (TGI).
        decode_room_blocks: KV blocks that admission leaves free for each request (MLC-LLM).
        watermark: share of KV blocks that admission leaves free.
        reserve: KV that is set aside at admission, beyond what the prompt takes.
        hold: take that KV at once.
        preemption: `recompute`, or `swap` to host memory.
        victim: who is preempted when KV runs out; set by the host from the scenario.
    """

    max_prefill_tokens: int | None = None
    chunked_prefill: bool = False
    waiting_served_ratio: float = 0.0
    max_waiting_tokens: int = 20
    alternate: bool = False
    decode_room_blocks: int = 0
    watermark: float = 0.0
    reserve: Reserve = "nothing"
    hold: bool = False
    preemption: Preemption = "recompute"
    victim: Victim = field(default_factory=LastAdmitted, metadata={"host": True})

    promise: ClassVar[Promise] = Promise(repeats=True)

    _prefilled: int = field(default=0, init=False, repr=False)  # steps when it last was
    _joined: bool = field(default=False, init=False, repr=False)  # a batch that was there
    _stable: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check_reserve(self.reserve, self.hold)
        check_preemption(self.preemption)
        if self.max_prefill_tokens is not None and self.max_prefill_tokens < 1:
            raise ValueError(f"max_prefill_tokens must be at least 1: {self.max_prefill_tokens}")
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"watermark must be in [0, 1), found {self.watermark}")
        least = min(self.waiting_served_ratio, self.max_waiting_tokens, self.decode_room_blocks)
        if least < 0:
            raise ValueError(
                "waiting_served_ratio, max_waiting_tokens and decode_room_blocks "
                f"must not be negative, found {least}"
            )

    def refuses(self, view: ReplicaView, request: Request) -> str:
        """Why *request* can never be served; "" if it can."""
        whole = None if self.chunked_prefill else self._most(view)
        return refusal(view, request, self.reserve, whole)

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Plan one step."""
        self._stable = True
        joins = bool(view.running)
        if self._may_prefill(view, step) and self._prefill(view, step):
            self._prefilled, self._joined = view.executed_steps + 1, joins
        else:
            self._decode(view, step)
            if view.swapped_count and not step.preemptions:
                self._swap_in(view, step)

    def repeats(self, view: ReplicaView) -> bool:
        """A pure decode step repeats while the head of the line stays blocked by KV."""
        return self._stable

    def _most(self, view: ReplicaView) -> int:
        """Prompt tokens of a step."""
        return min(self.max_prefill_tokens or 1 << 60, view.max_num_batched_tokens)

    # ---- whether --------------------------------------------------------------------------------

    def _may_prefill(self, view: ReplicaView, step: Step) -> bool:
        if not view.waiting_count or any(seq.is_chunk for seq in view.prefilling):
            return True
        decodes = view.executed_steps - self._prefilled
        if self.alternate and self._joined and decodes == 0 and view.running:
            self._stable = False
            return False
        least = int(len(view.running) * self.waiting_served_ratio)
        if least <= 1 or decodes + 1 >= self.max_waiting_tokens:
            return True
        if self._candidates(view, step, least) >= least:
            return True
        self._stable = False  # time lets them in
        return False

    def _candidates(self, view: ReplicaView, step: Step, most: int) -> int:
        """How many of the first *most* in line could be admitted together now."""
        found, tokens, blocks, size = 0, self._most(view), view.free_blocks, view.block_size
        places = view.max_num_seqs - len(view.running)
        for seq in view.line:
            known = seq.known_tokens
            tokens -= known
            kept = reserved_tokens(view, seq.request, self.reserve) or known
            blocks -= -(-kept // size)
            if min(tokens, blocks) < 0 or found == min(most, places):
                break
            found += 1
        return found

    # ---- prefill --------------------------------------------------------------------------------

    def _prefill(self, view: ReplicaView, step: Step) -> bool:
        """Whether anything was computed."""
        left, before = min(self._most(view), step.budget), step.budget
        cut = [seq for seq in view.prefilling if seq.is_chunk]
        if cut:
            step.spare(step.budget - left)
            before = step.budget
            self._stable = not self._run(view, step, cut, step.wanted)
            left = step.budget
        if not step.preemptions and not view.swapped_count:
            self._admit_waiting(view, step, left)
        return step.budget < before

    def _admit_waiting(self, view: ReplicaView, step: Step, left: int) -> None:
        most = left
        while left > 0 and len(view.running) < view.max_num_seqs:
            seq = step.next_waiting()
            if seq is None:
                return
            prefix = step.prefix(seq)
            if prefix is None:
                self._stable = False
                continue
            until = reserved_tokens(view, seq.request, self.reserve)
            if prefix.asynchronous:
                if not step.load(
                    seq, whole=True, watermark=self.watermark, until=until, hold=self.hold
                ):
                    self._stable &= not prefix.may_grow
                    return
                continue
            tokens = self._tokens(view, seq, prefix, left, first=left == most)
            if not tokens or not self._leaves_room(view, step, seq):
                self._stable &= not prefix.may_grow
                return
            tokens = step.encodable(seq, prefix.tokens, tokens)
            if not tokens:
                self._stable = False
                step.put_aside(seq)
                continue
            if not step.admit(
                seq, tokens, whole=True, watermark=self.watermark, until=until, hold=self.hold
            ):
                self._stable &= not prefix.may_grow
                return
            left -= tokens

    def _tokens(
        self, view: ReplicaView, seq: Handle, prefix: Prefix, left: int, *, first: bool
    ) -> int:
        """Tokens of a request that is admitted now; 0: it does not fit in the step."""
        tokens: int = seq.known_tokens - prefix.tokens
        # one that no step holds was preempted, and is computed again in pieces
        cut = self.chunked_prefill or (first and tokens > self._most(view))
        return min(tokens, left) if cut else tokens * (tokens <= left)

    def _leaves_room(self, view: ReplicaView, step: Step, seq: Handle) -> bool:
        """Whether each request finds `decode_room_blocks` after it is admitted; alone it may."""
        room = self.decode_room_blocks * (len(view.running) + 1)
        return not view.running or not room or step.fits(seq, spare=room)

    # ---- decode ---------------------------------------------------------------------------------

    def _decode(self, view: ReplicaView, step: Step) -> None:
        takes_last = isinstance(self.victim, LastAdmitted)
        before = step.preemptions
        together = step.take_decodes(last_gives_way=takes_last, swap=self._swaps)
        rest = view.prefilling if together else view.running
        self._run(view, step, list(rest), lambda seq: 0 if seq.is_chunk else step.wanted(seq))
        self._stable &= step.preemptions == before

    @property
    def _swaps(self) -> bool:
        return self.preemption == "swap"

    def _swap_in(self, view: ReplicaView, step: Step) -> None:
        """Let those whose KV is in host memory decode on, first out first, while they fit."""
        while step.budget > 0 and len(view.running) < view.max_num_seqs:
            seq = step.next_swapped()
            if seq is None:
                return
            prefix = step.prefix(seq)
            if prefix is None:
                self._stable = False
                continue
            tokens = min(seq.known_tokens - prefix.tokens, step.budget)
            tokens = step.encodable(seq, prefix.tokens, tokens)
            if not tokens:
                self._stable = False
                step.put_aside(seq)
                continue
            until = reserved_tokens(view, seq.request, self.reserve)
            if not self._leaves_room(view, step, seq) or not step.admit(
                seq, tokens, whole=True, watermark=self.watermark, until=until, hold=self.hold
            ):
                self._stable &= not prefix.may_grow
                return

    def _run(
        self,
        view: ReplicaView,
        step: Step,
        queue: list[Handle],
        wants: Callable[[Handle], int],
    ) -> bool:
        """Compute what each of *queue* wants; whether someone was preempted for it."""
        i, preempted = 0, False
        while i < len(queue) and step.budget > 0:
            seq = queue[i]
            tokens = min(wants(seq), step.budget)
            tokens = step.encodable(seq, seq.computed_tokens, tokens) if tokens > 0 else 0
            if not tokens:
                i += 1
                continue
            while not step.take(seq, tokens):
                loser = choose_victim(self.victim, list(view.running))
                preempted = True
                if not step.preempt(loser, swap=self._swaps):
                    return preempted
                if loser in queue:
                    at = queue.index(loser)
                    del queue[at]
                    i -= at < i
                if loser is seq:
                    break
            else:
                i += 1
        return preempted
