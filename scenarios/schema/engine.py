"""The ``engine:`` of a pool: a preset's name, or a preset and what differs from it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from .base import Short, Spec
from .contiguous_engines import (
    CandleSpec,
    Ctranslate2Spec,
    FasterTransformerSpec,
    GenerateSpec,
    OrcaSpec,
)
from .paged_engines import LmdeploySpec, MlcSpec, TensorrtLlmSpec, TgiSpec, VllmV0Spec
from .sglang import SglangSpec

Tokens = Annotated[int, Field(ge=0, le=1 << 30)]

#: fields of `EngineSpec` that are parameters of the preset's scheduling policy, by its own names
SCHEDULER_FIELDS = {
    "enable_chunked_prefill": "chunked_prefill",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "adaptive_long_prefill": "adaptive_long_prefill",
    "max_num_active_seqs": "max_num_active_seqs",
    "watermark": "watermark",
    "reserve_full_isl": "reserve_full_isl",
    "prefill_schedule_interval": "prefill_schedule_interval",
}


class EngineSpec(Spec):
    """How the engine batches. Names are those of vLLM 0.33."""

    scheduler_keys: ClassVar[dict[str, str]] = SCHEDULER_FIELDS

    preset: Literal["vllm-v1"] = Field(default="vllm-v1", description="the engine whose rules hold")
    max_num_batched_tokens: int = Field(
        default=8192, ge=1, le=1 << 24, description="token budget of a step"
    )
    max_num_seqs: int = Field(
        default=256, ge=1, le=1 << 20, description="most requests in the batch"
    )
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        le=1 << 24,
        description="context limit in tokens; what the model allows when left out",
    )
    enable_prefix_caching: bool = Field(default=True, description="reuse the KV of equal prefixes")
    async_scheduling: bool = Field(
        default=True, description="plan a step while the one before it runs"
    )
    enable_chunked_prefill: bool = Field(default=True, description="cut long prompts to the budget")
    long_prefill_token_threshold: Tokens = Field(
        default=0, description="most prompt tokens of one request in a step; 0 for no limit"
    )
    adaptive_long_prefill: bool = Field(
        default=False, description="never cut a prompt below an even share of the budget"
    )
    max_num_active_seqs: int | None = Field(
        default=None,
        ge=1,
        le=1 << 20,
        description="admit below this many; max_num_seqs when left out",
    )
    watermark: float = Field(
        default=0.0, ge=0, lt=1, description="share of KV blocks that admission leaves free"
    )
    reserve_full_isl: bool = Field(
        default=True, description="admit only what fits in KV whole, not only its first chunk"
    )
    prefill_schedule_interval: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="steps between two with prefill, while others decode",
    )
    prefix_index: Literal["hash-chain", "radix"] = Field(
        default="hash-chain", description="radix: look prefixes up in a tree as SGLang does"
    )
    max_loras: int = Field(
        default=0, ge=0, le=10_000, description="adapters in one batch; 0 for no limit"
    )
    encoder_budget: Tokens = Field(
        default=0, description="image tokens encoded per step; 0 for no limit"
    )
    encoder_cache_size: Tokens = Field(
        default=0, description="image tokens whose encoder output is kept; 0 for no limit"
    )

    @property
    def profiled_seqs(self) -> int:
        """Requests of a step that activations must have room for."""
        return self.max_num_seqs

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy."""
        return {name: getattr(self, key) for key, name in SCHEDULER_FIELDS.items()}


def _preset(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("preset", "vllm-v1")
    return getattr(value, "preset", "vllm-v1")


Engine = Annotated[
    Annotated[
        Annotated[EngineSpec, Tag("vllm-v1")]
        | Annotated[VllmV0Spec, Tag("vllm-v0")]
        | Annotated[SglangSpec, Tag("sglang")]
        | Annotated[TensorrtLlmSpec, Tag("tensorrt-llm")]
        | Annotated[TgiSpec, Tag("tgi")]
        | Annotated[OrcaSpec, Tag("orca")]
        | Annotated[LmdeploySpec, Tag("lmdeploy-turbomind")]
        | Annotated[MlcSpec, Tag("mlc-llm")]
        | Annotated[FasterTransformerSpec, Tag("fastertransformer")]
        | Annotated[Ctranslate2Spec, Tag("ctranslate2")]
        | Annotated[CandleSpec, Tag("candle")]
        | Annotated[GenerateSpec, Tag("generate")],
        Discriminator(_preset),
    ],
    Short("preset"),
]
