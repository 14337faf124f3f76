"""Stall-free batching: decodes first, and no more prefill than fits beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..registry import scheduling
from ..types import Promise, Request
from .base import ReplicaView, Step
from .reserve import refusal
from .vllm_v1 import VllmV1


@scheduling("sarathi")
@dataclass(slots=True)
class Sarathi(VllmV1):
    """Every decode gets its token, and one small budget of prompt tokens rides along.

    vLLM's V1 scheduler is this one with a larger budget: what Sarathi adds is to keep the step
    short, so that a prompt is never felt as a pause. Method: Agrawal et al., Sarathi-Serve,
    arXiv:2403.02310, algorithm 3 (tau is `chunk_tokens`).

    Attributes:
        chunk_tokens: tokens of a step, decodes included, where that is below the engine's budget.
    """

    promise: ClassVar[Promise] = Promise(repeats=True)

    chunk_tokens: int = 512

    def __post_init__(self) -> None:
        VllmV1.__post_init__(self)
        if self.chunk_tokens < 1:
            raise InputError(f"chunk_tokens must be at least 1, found {self.chunk_tokens}")

    def refuses(self, view: ReplicaView, request: Request) -> str:
        """Why *request* can never be served; "" if it can."""
        whole = min(view.max_num_batched_tokens, self.chunk_tokens)
        return refusal(view, request, "nothing", None if self.chunked_prefill else whole)

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """vLLM's plan in a smaller step."""
        step.spare(step.budget - self.chunk_tokens)
        VllmV1.schedule(self, view, step)
