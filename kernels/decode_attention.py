"""Attention of one new token a sequence over its paged cache, the keys split among programs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .paged import attend, attention_work, gather
from .work import Work


def reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
    splits: int | None = None,
) -> torch.Tensor:
    """`decode_attention` in plain torch; *splits* changes nothing here."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros_like(q)
    for i, tokens in enumerate(lengths.tolist()):
        first = max(0, tokens - window) if window else 0
        k = gather(k_cache, block_table[i], tokens, k_scale, wide)[first:]
        v = gather(v_cache, block_table[i], tokens, v_scale, wide)[first:]
        visible = torch.ones(1, tokens - first, dtype=torch.bool, device=q.device)
        out[i] = attend(q[i : i + 1], k, v, visible, scale)[0].to(q.dtype)
    return out


def work(
    lengths: Sequence[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    window: int = 0,
    item_bytes: int = 2,
    kv_bytes: int = 2,
) -> Work:
    """Of one launch over sequences of these *lengths* in KV tokens."""
    keys = sum(min(n, window) if window else n for n in lengths)
    sizes = (item_bytes, kv_bytes)
    return attention_work(len(lengths), keys, keys, heads, kv_heads, head_dim, sizes)
