"""A decoder of the Llama family (Llama, Mistral, Qwen, Mixtral) over a paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from ...policies.errors import InputError
from ...sim.cost.specs import ModelSpec
from .embeddings import Seen
from .kv import KVCache
from .ops import Ops
from .weights import Layer, Source, build

ROPE_THETA = 10_000.0


@dataclass(slots=True)
class Inputs:
    """`Batch` on the device; tables and lengths apart for decodes and chunks.

    Attributes:
        seen: embeddings of images, once what is launched before is computed; None: there are none.
        masks: words and rows of `Masks`; None: there are none.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    decodes: int
    decode_tables: torch.Tensor
    decode_lengths: torch.Tensor
    prefill_tables: torch.Tensor
    prefill_lengths: torch.Tensor
    query_start: torch.Tensor
    rows: torch.Tensor
    seen: Seen | None = None
    masks: tuple[torch.Tensor, torch.Tensor] | None = None


def check(spec: ModelSpec) -> None:
    """Refuse a model whose layers are not these.

    Raises:
        InputError: latent attention, sliding windows or a sparse index.
    """
    reason = ""
    if spec.is_mla:
        reason = "latent attention"
    elif spec.sliding_window:
        reason = "sliding windows"
    if reason:
        raise InputError(
            f"the executor cannot compute {spec.name}: it has {reason}",
            where="cluster.model",
            help="models with plain grouped-query attention run: llama, mistral, qwen, mixtral",
        )


class Model:
    """Weights and the forward.

    Args:
        source: where the weights come from (`weights.Random`, `weights.Checkpoint`).
        positions: how far rotary embeddings reach.
    """

    def __init__(
        self, spec: ModelSpec, ops: Ops, source: Source, positions: int, device: torch.device
    ) -> None:
        check(spec)
        self.spec, self.ops, self._eps = spec, ops, source.eps
        self.weights = build(spec, source)
        half = torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim
        frequencies = (spec.rope_theta or ROPE_THETA) ** -half
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), -1).float().to(device)

    @torch.no_grad()
    def forward(self, inputs: Inputs, kv: KVCache, out: torch.Tensor | None = None) -> torch.Tensor:
        """Compute a step: KV is written, and [rows, vocab] logits returned, in *out* if given."""
        ops, weights = self.ops, self.weights
        x, seen = weights.embedding[inputs.tokens], inputs.seen
        if seen is not None:
            x[seen.rows] = seen.values[0]
        residual: torch.Tensor | None = None
        for i, layer in enumerate(weights.layers):
            if residual is None:
                h, residual = ops.rms_norm(x, layer.norm_1, self._eps), x
            else:
                h, residual = ops.add_rms_norm(x, residual, layer.norm_1, self._eps)
            x = self._attention(h, layer, inputs, kv.keys[i], kv.values[i])
            h, residual = ops.add_rms_norm(x, residual, layer.norm_2, self._eps)
            x = self._feed_forward(h, layer)
            if seen is not None and i + 1 < len(seen.values):
                x[seen.rows] += seen.values[i + 1]  # deepstack
        assert residual is not None
        h, _ = ops.add_rms_norm(x[inputs.rows], residual[inputs.rows], weights.norm, self._eps)
        return linear(h, weights.head) if out is None else torch.mm(h, weights.head.t(), out=out)

    def chosen(
        self, logits: torch.Tensor, masks: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        """[rows] the likeliest tokens of those that are allowed; *logits* are changed."""
        if masks is not None:
            self.ops.apply_bitmask(logits, *masks)
        return self.ops.greedy(logits)

    def _attention(
        self,
        h: torch.Tensor,
        layer: Layer,
        inputs: Inputs,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        spec, ops = self.spec, self.ops
        heads = linear(h, layer.qkv, layer.qkv_bias).view(len(h), -1, spec.head_dim)
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._normed(q, layer.q_norm), self._normed(k, layer.k_norm)
        q = ops.rope_kv_write(
            q, k, v, inputs.positions, self.cos_sin, k_cache, v_cache, inputs.slots
        )
        scale, decodes = spec.head_dim**-0.5, inputs.decodes
        parts = []
        if decodes:
            parts.append(
                ops.decode_attention(
                    q[:decodes],
                    k_cache,
                    v_cache,
                    inputs.decode_tables,
                    inputs.decode_lengths,
                    scale=scale,
                )
            )
        if decodes < len(q):
            parts.append(
                ops.prefill_attention(
                    q[decodes:],
                    k_cache,
                    v_cache,
                    inputs.prefill_tables,
                    inputs.query_start,
                    inputs.prefill_lengths,
                    scale=scale,
                )
            )
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return linear(out.flatten(1), layer.out)

    def _normed(self, heads: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The norm of every head by itself: [T, heads, D]."""
        rows = heads.reshape(-1, self.spec.head_dim)
        return self.ops.rms_norm(rows, weight, self._eps).view(heads.shape)

    def _feed_forward(self, h: torch.Tensor, layer: Layer) -> torch.Tensor:
        ops = self.ops
        x: torch.Tensor | None = None
        if layer.gate_up is not None and layer.down is not None:
            x = linear(ops.silu_mul(linear(h, layer.gate_up)), layer.down)
        if layer.router is None:
            assert x is not None
            return x
        assert layer.experts_gate_up is not None
        assert layer.experts_down is not None
        weights, ids = ops.route(linear(h, layer.router), self.spec.top_k)
        routed = ops.moe(h, layer.experts_gate_up, layer.experts_down, weights, ids)
        return routed if x is None else routed + x
