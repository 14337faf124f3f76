"""Limits of one engine replica, under the names that vLLM's users know."""

from __future__ import annotations

from dataclasses import dataclass

from ...policies.errors import InputError


@dataclass(frozen=True, slots=True)
class OffloadLimits:
    """A tier for KV in host memory.

    Attributes:
        blocks: how many it holds.
        latency_ps, bytes_per_s: of the link to the host, in one direction.
    """

    blocks: int
    latency_ps: int
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine is started with, apart from its policies.

    Attributes:
        kv_blocks: usable KV blocks (vLLM's num_gpu_blocks minus its null block).
        block_size: tokens in a block.
        max_model_len: longest prompt plus answer.
        max_num_batched_tokens: token budget of a step.
        max_num_seqs: most sequences in the batch.
        prefix_caching: whether prompts share KV.
        async_scheduling: plan step i+1 while step i runs.
        max_loras: adapters that may be in the batch at once; 0: no limit.
        num_spec_tokens: draft tokens per decode step; 0: no speculation.
        lookahead_tokens: KV slots that the drafter itself needs (EAGLE: num_spec_tokens).
        encoder_budget: encoder tokens computed per step; 0: no limit.
        encoder_cache_size: encoder outputs kept, in tokens; 0: no limit.
        fail_on_load_error: a request whose KV fails to load ends in error instead of recomputing.
    """

    kv_blocks: int
    block_size: int = 16
    max_model_len: int = 131_072
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    prefix_caching: bool = True
    async_scheduling: bool = True
    max_loras: int = 0
    num_spec_tokens: int = 0
    lookahead_tokens: int = 0
    encoder_budget: int = 0
    encoder_cache_size: int = 0
    fail_on_load_error: bool = False

    def __post_init__(self) -> None:
        for name in (
            "kv_blocks",
            "block_size",
            "max_model_len",
            "max_num_batched_tokens",
            "max_num_seqs",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "max_loras",
            "num_spec_tokens",
            "lookahead_tokens",
            "encoder_budget",
            "encoder_cache_size",
        ):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, found {getattr(self, name)}")
