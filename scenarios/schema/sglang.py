"""The ``engine:`` of a pool that is served by SGLang, in the names of its server arguments."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ...policies.scheduling.sglang.order import Name
from .base import Spec


class SglangSpec(Spec):
    """How SGLang batches. Names are those of SGLang 0.5.23."""

    #: fields that are parameters of the scheduling policy
    scheduler_keys: ClassVar[dict[str, str]] = {
        name: name
        for name in (
            "schedule_policy",
            "chunked_prefill_size",
            "max_prefill_tokens",
            "schedule_conservativeness",
            "enable_mixed_chunk",
            "enable_priority_scheduling",
            "schedule_low_priority_values_first",
            "prefill_max_requests",
            "ignore_eos",
        )
    }

    preset: Literal["sglang"] = Field(description="the engine whose rules hold")
    schedule_policy: Name = Field(
        default="fcfs", description="the order of the waiting line before each prefill"
    )
    chunked_prefill_size: int | None = Field(
        default=8192,
        ge=1,
        le=1 << 24,
        description="prompt tokens of a prefill, above which a prompt is cut; null: never",
    )
    max_prefill_tokens: int = Field(
        default=16384, ge=1, le=1 << 24, description="prompt tokens of a prefill"
    )
    schedule_conservativeness: float = Field(
        default=1.0, gt=0, le=100, description="how much of the answers under way is set aside"
    )
    page_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="tokens in a KV block; the pool's block_size, or 1, when left out",
    )
    max_running_requests: int = Field(
        default=2048, ge=1, le=1 << 20, description="most requests in the batch"
    )
    cuda_graph_max_bs: int = Field(
        default=256, ge=1, le=1 << 20, description="decodes of a step that memory is kept for"
    )
    context_length: int | None = Field(
        default=None,
        ge=2,
        le=1 << 24,
        description="context limit in tokens; what the model allows when left out",
    )
    enable_mixed_chunk: bool = Field(
        default=False, description="prefills carry the decodes of the batch along"
    )
    enable_priority_scheduling: bool = Field(
        default=False, description="fcfs and lof look at the priority of requests first"
    )
    schedule_low_priority_values_first: bool = Field(
        default=True, description="priority 1 goes before 2; SGLang itself has the opposite default"
    )
    prefill_max_requests: int | None = Field(
        default=None, ge=1, le=1 << 20, description="most requests of a prefill"
    )
    ignore_eos: bool = Field(
        default=False, description="clients say that answers have their full length"
    )
    disable_radix_cache: bool = Field(default=False, description="share no KV between requests")
    disable_overlap_schedule: bool = Field(
        default=False, description="plan a step only when the one before it has ended"
    )
    max_loras_per_batch: int = Field(
        default=8, ge=1, le=10_000, description="adapters in one batch"
    )
    prefix_index: Literal["radix", "hash-chain"] = Field(
        default="radix", description="hash-chain: look prefixes up as vLLM does"
    )

    @property
    def encoder_budget(self) -> int:
        """Image tokens encoded per step; 0 for no limit."""
        return 0

    @property
    def encoder_cache_size(self) -> int:
        """Image tokens whose encoder output is kept; 0 for no limit."""
        return 0

    @property
    def max_num_batched_tokens(self) -> int:
        """Prompt tokens that activations must have room for."""
        return self.chunked_prefill_size or self.max_prefill_tokens

    @property
    def profiled_seqs(self) -> int:
        """Requests of a step that activations must have room for."""
        return min(self.cuda_graph_max_bs, self.max_running_requests)

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_running_requests

    @property
    def max_model_len(self) -> int | None:
        """Context limit in tokens."""
        return self.context_length

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether equal prefixes share KV."""
        return not self.disable_radix_cache

    @property
    def async_scheduling(self) -> bool:
        """Whether a step is planned while the one before it runs."""
        return not self.disable_overlap_schedule

    @property
    def max_loras(self) -> int:
        """Adapters in one batch."""
        return self.max_loras_per_batch

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy."""
        return {name: getattr(self, key) for key, name in self.scheduler_keys.items()}
