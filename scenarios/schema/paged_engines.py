"""Engines with paged KV: vLLM V0, TensorRT-LLM, TGI, LMDeploy and MLC-LLM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ...policies.errors import InputError
from ..explain import PartError
from .other_engine import BATCH, CONTEXT, Context, OtherEngine, Requests, Tokens


class VllmV0Spec(OtherEngine):
    """How vLLM's first engine batches. Names are those of vLLM 0.6."""

    preset: Literal["vllm-v0"] = Field(description="the engine whose rules hold")
    max_num_batched_tokens: Tokens = Field(default=8192, description="prompt tokens of a prefill")
    max_num_seqs: Requests = Field(default=256, description=BATCH)
    max_model_len: Context | None = Field(default=None, description=CONTEXT)
    enable_prefix_caching: bool = Field(default=False, description="reuse the KV of equal prefixes")
    watermark: float = Field(
        default=0.01, ge=0, lt=1, description="share of KV blocks that admission leaves free"
    )

    preemption_mode: Literal["recompute", "swap"] = Field(
        default="recompute",
        description="whether who is preempted is computed again, or swapped to host memory",
    )

    scheduler_keys: ClassVar[dict[str, str]] = {
        "watermark": "watermark",
        "preemption_mode": "preemption",
    }


CapacityPolicy = Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"]


class TensorrtLlmSpec(OtherEngine):
    """How TensorRT-LLM batches. Names are those of its LLM API 1.0."""

    preset: Literal["tensorrt-llm"] = Field(description="the engine whose rules hold")
    capacity_scheduler_policy: CapacityPolicy = Field(
        default="GUARANTEED_NO_EVICT", description="how far KV is set aside for a request"
    )
    max_batch_size: Requests = Field(default=2048, description=BATCH)
    max_num_tokens: Tokens = Field(default=8192, description="token budget of a step")
    max_seq_len: Context | None = Field(default=None, description=CONTEXT)
    enable_chunked_prefill: bool = Field(default=False, description="cut prompts to the budget")
    enable_block_reuse: bool = Field(default=True, description="reuse the KV of equal prefixes")
    disable_overlap_scheduler: bool = Field(
        default=False, description="plan a step only when the one before it has ended"
    )

    context_key: ClassVar[str] = "max_seq_len"
    scheduler_keys: ClassVar[dict[str, str]] = {
        "capacity_scheduler_policy": "reserve",
        "enable_chunked_prefill": "chunked_prefill",
    }

    @model_validator(mode="after")
    def _cuts(self) -> TensorrtLlmSpec:
        if self._static and self.enable_chunked_prefill:
            error = InputError("STATIC_BATCH computes prompts whole", help="leave it out")
            raise PartError(error, "enable_chunked_prefill")
        return self

    @property
    def _static(self) -> bool:
        return self.capacity_scheduler_policy == "STATIC_BATCH"

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return self.max_num_tokens

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_batch_size

    @property
    def max_model_len(self) -> int | None:
        """Context limit in tokens."""
        return self.max_seq_len

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether equal prefixes share KV."""
        return self.enable_block_reuse

    @property
    def async_scheduling(self) -> bool:
        """Whether a step is planned while the one before it runs."""
        return not self.disable_overlap_scheduler

    @property
    def scheduling(self) -> str:
        """The scheduling policy."""
        return "static-batch" if self._static else "in-flight"

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy."""
        if self._static:
            return {"reserve": "answer", "hold": False}
        keeps = self.capacity_scheduler_policy == "GUARANTEED_NO_EVICT"
        reserve = "answer" if keeps else "nothing"
        return {"chunked_prefill": self.enable_chunked_prefill, "reserve": reserve}


class TgiSpec(OtherEngine):
    """How Text Generation Inference batches. Names are those of its launcher 2.4."""

    preset: Literal["tgi"] = Field(description="the engine whose rules hold")
    max_batch_prefill_tokens: Tokens = Field(default=4096, description="prompt tokens of a prefill")
    max_batch_size: Requests = Field(default=256, description=BATCH)
    max_total_tokens: Context | None = Field(default=None, description=CONTEXT)
    waiting_served_ratio: float = Field(
        default=0.3,
        ge=0,
        le=1000,
        description="a prefill takes at least so many requests, as a share of the batch",
    )
    max_waiting_tokens: int = Field(
        default=20, ge=0, le=1 << 20, description="after so many tokens any number will do"
    )
    prefix_caching: bool = Field(default=True, description="reuse the KV of equal prefixes")

    context_key: ClassVar[str] = "max_total_tokens"
    scheduler_keys: ClassVar[dict[str, str]] = {
        "waiting_served_ratio": "waiting_served_ratio",
        "max_waiting_tokens": "max_waiting_tokens",
    }

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return max(self.max_batch_prefill_tokens, self.max_batch_size)

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_batch_size

    @property
    def max_model_len(self) -> int | None:
        """Context limit in tokens."""
        return self.max_total_tokens

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether equal prefixes share KV."""
        return self.prefix_caching

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy."""
        return OtherEngine.scheduler(self) | {"max_prefill_tokens": self.max_batch_prefill_tokens}


class LmdeploySpec(OtherEngine):
    """How LMDeploy's TurboMind batches. Names are those of TurbomindEngineConfig 0.7."""

    preset: Literal["lmdeploy-turbomind"] = Field(description="the engine whose rules hold")
    max_batch_size: Requests = Field(default=128, description="slots of the persistent batch")
    max_prefill_token_num: Tokens = Field(default=8192, description="token budget of a step")
    session_len: Context | None = Field(default=None, description=CONTEXT)
    enable_prefix_caching: bool = Field(default=False, description="reuse the KV of equal prefixes")

    context_key: ClassVar[str] = "session_len"

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return self.max_prefill_token_num

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_batch_size

    @property
    def max_model_len(self) -> int | None:
        """Context limit in tokens."""
        return self.session_len


class MlcSpec(OtherEngine):
    """How MLC-LLM batches. Names are those of its EngineConfig, 2025."""

    preset: Literal["mlc-llm"] = Field(description="the engine whose rules hold")
    max_num_sequence: Requests = Field(default=80, description=BATCH)
    prefill_chunk_size: Tokens = Field(default=2048, description="prompt tokens of a prefill")
    max_single_sequence_length: Context | None = Field(default=None, description=CONTEXT)
    prefix_cache_mode: Literal["radix", "disable"] = Field(
        default="radix", description="whether equal prefixes share KV"
    )

    context_key: ClassVar[str] = "max_single_sequence_length"

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return max(self.prefill_chunk_size, self.max_num_sequence)

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_num_sequence

    @property
    def max_model_len(self) -> int | None:
        """Context limit in tokens."""
        return self.max_single_sequence_length

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether equal prefixes share KV."""
        return self.prefix_cache_mode == "radix"

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy."""
        return OtherEngine.scheduler(self) | {"max_prefill_tokens": self.prefill_chunk_size}
