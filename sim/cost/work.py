"""The work of a step as rates: seconds per token, per weight read, per pair of query and key."""

from __future__ import annotations

from typing import NamedTuple

from . import parameters
from .dtypes import HALF_BYTES, WeightFormat, kv_element_bytes
from .overheads import Overheads
from .specs import GpuSpec, ModelSpec, Parallelism

PS = 1e12  #: picoseconds in a second


class GemmRate(NamedTuple):
    """A matrix product done *times* times a step: bound by arithmetic or by reading its operands.

    time = times * max(tokens * token_s, copies read * weight_s + tokens * row_s)

    Attributes:
        token_s: arithmetic for one token.
        weight_s: reading the weights of one copy.
        row_s: reading and writing the activations of one token.
        copies: experts on this GPU.
        op: its name in `ops.OPS`; routed experts are one operation.
    """

    times: int
    token_s: float
    weight_s: float
    row_s: float
    is_expert: bool = False
    copies: int = 1
    op: str = ""

    def picoseconds(self) -> tuple[float, float, float]:
        """The three rates times `times`, in picoseconds."""
        scale = self.times * PS
        return self.token_s * scale, self.weight_s * scale, self.row_s * scale


class AttentionRates(NamedTuple):
    """Attention of a step over all layers, in seconds.

    Attributes:
        decode_full_s: one decoding token, per token of context, where all of it is read.
        decode_limited_s: the same where at most `limit` tokens are read.
        pair_full_s, pair_limited_s: arithmetic of a chunk, per pair of query and key.
        key_full_s, key_limited_s: reading the KV of a chunk, per token of context.
        expand_s: unfolding the latents before a chunk (MLA), per token; its own are a product.
        limit: tokens a sliding window or a sparse index lets attention read; 0 for none.
    """

    decode_full_s: float
    decode_limited_s: float
    pair_full_s: float
    pair_limited_s: float
    key_full_s: float
    key_limited_s: float
    expand_s: float
    limit: int


def gemm_rates(
    m: ModelSpec, gpu: GpuSpec, split: Parallelism, form: WeightFormat, over: Overheads
) -> list[GemmRate]:
    """Every matrix product of the layers; a routed expert's rows are tokens times top_k."""
    found = []
    for g in parameters.gemms(m, split.tp, split):
        count = parameters.layers_where(m, g.where, 0, m.layers)
        is_expert = g.routed
        is_native = g.quantised and (is_expert or not form.experts_only)
        peak = gpu.flops(form.compute if is_native else "bf16")
        flops = peak * (over.moe_flops if is_expert else over.gemm_flops)
        rate = gpu.memory_bytes_per_s * (over.moe_bytes if is_expert else over.gemm_bytes)
        rows = m.top_k * g.copies / m.experts if is_expert else 1
        found.append(
            GemmRate(
                count,
                2 * rows * g.inputs * g.outputs / flops,
                parameters.gemm_bytes(m, g, form) / rate,
                rows * (g.inputs + g.outputs) * HALF_BYTES / rate,
                is_expert,
                g.copies,
                "moe" if is_expert else g.name.replace(" ", "_"),
            )
        )
    return found


def head_rate(m: ModelSpec, gpu: GpuSpec, tp: int, over: Overheads) -> GemmRate:
    """The LM head on the rows that sample, always in bf16, and gathering their logits."""
    vocab = -(-m.vocab // tp)
    rate = gpu.memory_bytes_per_s * over.gemm_bytes
    gather_s = 0.0
    if tp > 1:
        gather_s = (tp - 1) * vocab * HALF_BYTES / over.link(gpu, tp)[1]
    return GemmRate(
        1,
        2 * m.hidden * vocab / (gpu.bf16_flops * over.gemm_flops) + gather_s,
        m.hidden * vocab * HALF_BYTES / rate,
        (m.hidden + vocab) * HALF_BYTES / rate + gather_s,
    )


def attention_rates(
    m: ModelSpec, gpu: GpuSpec, tp: int, kv_dtype: str, over: Overheads
) -> AttentionRates:
    """Attention in bf16 over a KV cache of *kv_dtype*; an indexer reads its fp8 keys in full."""
    heads = m.heads // tp
    prefill = gpu.bf16_flops * over.prefill_flops
    decode = gpu.bf16_flops * over.decode_flops
    rate = gpu.memory_bytes_per_s * over.attention_bytes
    key_s = m.kv_bytes_per_layer(kv_dtype, tp) / rate
    if not m.is_mla:
        pair = 4 * heads * m.head_dim
        token_s = max(pair / decode, key_s)
        near, far = m.sliding_layers, m.layers - m.sliding_layers
        return AttentionRates(
            far * token_s,
            near * token_s,
            far * pair / prefill,
            near * pair / prefill,
            far * key_s,
            near * key_s,
            0.0,
            m.sliding_window,
        )
    latent = 2 * heads * (2 * m.kv_lora + m.qk_rope)
    pair = 2 * heads * (m.qk_nope + m.qk_rope + m.v_head)
    expand_s = 2 * m.kv_lora * heads * (m.qk_nope + m.v_head) / (gpu.bf16_flops * over.gemm_flops)
    latent_bytes = (m.kv_lora + m.qk_rope) * kv_element_bytes(kv_dtype)
    latent_s = latent_bytes / rate
    n = m.layers
    if not m.index_top_k:
        token_s = max(latent / decode, latent_s)
        return AttentionRates(
            n * token_s, 0.0, n * pair / prefill, 0.0, n * latent_s, 0.0, n * expand_s, 0
        )
    index_flops = gpu.flops("fp8") * over.decode_flops
    index = 2 * m.index_heads * m.index_head_dim / index_flops
    index_s = key_s - latent_s
    # sparse prefill attends over the latents, as decode does: there is nothing to unfold
    return AttentionRates(
        n * max(index, index_s),
        n * max(latent / decode, latent_s),
        n * index,
        n * latent / prefill,
        n * index_s,
        n * latent_s,
        0.0,
        m.index_top_k,
    )
