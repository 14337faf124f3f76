"""The operations of a forward, by plain torch or by our kernels, behind one face.

Shapes and meanings are those of the modules in ``kernels/``.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

Tensor = torch.Tensor


class Ops(Protocol):
    """What a model asks of a back end.

    Attributes:
        graphs: steps may be captured in CUDA graphs (nothing reads a tensor on the host).
    """

    graphs: bool

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...
    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]: ...
    def silu_mul(self, gate_up: Tensor) -> Tensor: ...
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
    ) -> Tensor: ...
    def decode_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_table: Tensor,
        lengths: Tensor,
        *,
        scale: float,
    ) -> Tensor: ...
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
    ) -> Tensor: ...
    def route(self, logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]: ...
    def moe(
        self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, ids: Tensor
    ) -> Tensor: ...
    def apply_bitmask(self, logits: Tensor, words: Tensor, rows: Tensor) -> None: ...
    def greedy(self, logits: Tensor) -> Tensor: ...


class TorchOps:
    """Plain torch, one sequence at a time: the same sums whatever else is in the batch."""

    graphs = False

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[T, N] over its root mean square, in fp32, times *weight*."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (scaled * weight.float()).to(x.dtype)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """The norm of *x* + *residual*, and that sum."""
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """[T, 2F] -> [T, F]."""
        gate, up = gate_up.chunk(2, -1)
        return silu(gate) * up

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
        cos, sin = cos_sin[positions.long()][:, None].chunk(2, -1)
        here = slots >= 0
        k_cache.view(-1, *k_cache.shape[2:])[slots[here]] = _rotated(k, cos, sin)[here]
        v_cache.view(-1, *v_cache.shape[2:])[slots[here]] = v[here]
        return _rotated(q, cos, sin)

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
        starts = torch.arange(len(q) + 1, dtype=torch.int32)
        return self.prefill_attention(
            q, k_cache, v_cache, block_table, starts, lengths, scale=scale
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
        out = torch.zeros_like(q)
        starts, size = query_start.tolist(), k_cache.shape[1]
        for i, length in enumerate(lengths.tolist()):
            low, high = starts[i], starts[i + 1]
            if not length or low == high:
                continue
            blocks = block_table[i, : -(-length // size)].long()
            keys = k_cache[blocks].flatten(0, 1)[:length].transpose(0, 1)
            values = v_cache[blocks].flatten(0, 1)[:length].transpose(0, 1)
            new = high - low
            seen = torch.ones(new, length, dtype=torch.bool, device=q.device).tril(length - new)
            found = scaled_dot_product_attention(
                q[low:high].transpose(0, 1)[None],
                keys[None].to(q.dtype),
                values[None].to(q.dtype),
                attn_mask=None if new == 1 else seen,
                scale=scale,
                enable_gqa=True,
            )
            out[low:high] = found[0].transpose(0, 1)
        return out

    def route(self, logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """The *top_k* likeliest experts [T, k], their shares summing to one; ties: lower id."""
        wide = logits.float()
        ids = wide.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
        weights = wide.softmax(-1).gather(1, ids)
        return weights / weights.sum(-1, keepdim=True), ids.int()

    def moe(self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """Each token through its experts, summed by weight."""
        out = torch.zeros_like(x, dtype=torch.float32)
        for expert in sorted(set(ids.flatten().tolist())):
            rows, place = (ids == expert).nonzero(as_tuple=True)
            inner = self.silu_mul(linear(x[rows], gate_up[expert]))
            part = linear(inner, down[expert]).float() * weights[rows, place, None]
            out.index_add_(0, rows, part)
        return out.to(x.dtype)

    def apply_bitmask(self, logits: Tensor, words: Tensor, rows: Tensor) -> None:
        """Set what *words* forbid in *rows* to -inf, in place."""
        shifts = torch.arange(32, dtype=torch.int32, device=words.device)
        allowed = ((words.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, : logits.shape[1]].bool()
        at = rows.long()
        logits[at] = logits[at].masked_fill(~allowed, float("-inf"))

    def greedy(self, logits: Tensor) -> Tensor:
        """The likeliest token of each row."""
        return logits.float().argmax(-1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[T, heads, D], halves rotated against each other (neox style)."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)
