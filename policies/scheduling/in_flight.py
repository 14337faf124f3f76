"""Iteration-level batching that sets KV aside for whole answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import scheduling
from ..types import Promise, Request
from .base import Handle, ReplicaView, Step
from .reserve import Reserve, check_reserve, refusal, reserved_tokens
from .vllm_v1 import VllmV1


@scheduling("in-flight")
@dataclass(slots=True)
class InFlight(VllmV1):
    """Decodes and prompts in one step, as vllm-v1, with KV set aside for whole answers.

    Orca reserves and takes the KV of the longest answer at admission (`hold`); TensorRT-LLM's
    GUARANTEED_NO_EVICT counts it, and takes it as it is needed. Either never preempts. Method: Yu
    et al., Orca, OSDI'22, algorithm 1; TensorRT-LLM `batch_manager/capacityScheduler.cpp`.

    Attributes:
        reserve: KV that is set aside at admission, beyond what the prompt takes.
        hold: take that KV at once, as engines without paging must.
    """

    promise: ClassVar[Promise] = Promise(repeats=True)

    reserve: Reserve = "answer"
    hold: bool = False

    def __post_init__(self) -> None:
        VllmV1.__post_init__(self)
        check_reserve(self.reserve, self.hold)

    def refuses(self, view: ReplicaView, request: Request) -> str:
        """Why *request* can never be served; "" if it can."""
        whole = None if self.chunked_prefill else view.max_num_batched_tokens
        return refusal(view, request, self.reserve, whole)

    def _admit(self, view: ReplicaView, step: Step, seq: Handle, tokens: int, drafts: int) -> bool:
        return step.admit(
            seq,
            tokens,
            whole=self.reserve_full_isl,
            watermark=self.watermark,
            drafts=drafts,
            until=reserved_tokens(view, seq.request, self.reserve),
            hold=self.hold,
        )

    def _load(self, view: ReplicaView, step: Step, seq: Handle) -> bool:
        return step.load(
            seq,
            whole=self.reserve_full_isl,
            watermark=self.watermark,
            until=reserved_tokens(view, seq.request, self.reserve),
            hold=self.hold,
        )
