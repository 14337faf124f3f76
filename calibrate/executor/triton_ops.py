"""The operations of a forward by the kernels of this project."""

from __future__ import annotations

import torch

from ...kernels import (
    decode_attention,
    moe_gemm,
    moe_route,
    prefill_attention,
    rms_norm,
    rope_kv_write,
    sampling,
    silu_mul,
    token_bitmask,
)

Tensor = torch.Tensor


class TritonOps:
    """Kernels compiled for the device; on a CPU, Triton's interpreter."""

    graphs = True

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[T, N] over its root mean square, in fp32, times *weight*."""
        return rms_norm.rms_norm(x, weight, eps)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """The norm of *x* + *residual*, and that sum."""
        return rms_norm.add_rms_norm(x, residual, weight, eps)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """[T, 2F] -> [T, F]."""
        return silu_mul.silu_mul(gate_up)

    def rope_kv_write(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        cos_sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        slots: Tensor,
    ) -> Tensor:
        """Rotate by position; keys and values go to their slots, those at -1 nowhere."""
        return rope_kv_write.rope_kv_write(q, k, v, positions, cos_sin, k_cache, v_cache, slots)

    def decode_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_table: Tensor,
        lengths: Tensor,
        *,
        scale: float,
    ) -> Tensor:
        """One query a sequence; length 0 gives zeros."""
        return decode_attention.decode_attention(
            q, k_cache, v_cache, block_table, lengths, scale=scale
        )

    def prefill_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_table: Tensor,
        query_start: Tensor,
        lengths: Tensor,
        *,
        scale: float,
    ) -> Tensor:
        """Chunks over their paged prefixes, causal."""
        return prefill_attention.prefill_attention(
            q, k_cache, v_cache, block_table, query_start, lengths, scale=scale
        )

    def route(self, logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """The *top_k* likeliest experts [T, k], their shares summing to one; ties: lower id."""
        return moe_route.route(logits, top_k)

    def moe(self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """Each token through its experts, summed by weight."""
        return moe_gemm.moe(x, gate_up, down, weights, ids)

    def apply_bitmask(self, logits: Tensor, words: Tensor, rows: Tensor) -> None:
        """Set what *words* forbid in *rows* to -inf, in place."""
        token_bitmask.apply_bitmask(logits, words, rows)

    def greedy(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row."""
        return sampling.greedy(logits)
