"""Causal attention of chunks of many sequences, each over its paged prefix and itself."""

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
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
) -> torch.Tensor:
    """`prefill_attention` in plain torch."""
    wide = torch.promote_types(q.dtype, torch.float32)
    starts = query_start.tolist()
    out = torch.zeros_like(q)
    for i, tokens in enumerate(lengths.tolist()):
        chunk = slice(starts[i], starts[i + 1])
        k = gather(k_cache, block_table[i], tokens, k_scale, wide)
        v = gather(v_cache, block_table[i], tokens, v_scale, wide)
        key = torch.arange(tokens, device=q.device)
        query = key[tokens - (chunk.stop - chunk.start) :, None]
        visible = key <= query
        if window:
            visible &= key > query - window
        out[chunk] = attend(q[chunk], k, v, visible, scale).to(q.dtype)
    return out


def work(
    chunks: Sequence[tuple[int, int]],
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    window: int = 0,
    item_bytes: int = 2,
    kv_bytes: int = 2,
) -> Work:
    """Of one launch over *chunks*, each (new tokens, tokens of its prefix)."""
    pairs = sum(visible_pairs(new, prefix, window) for new, prefix in chunks)
    keys = sum(min(prefix, window - 1) + new if window else prefix + new for new, prefix in chunks)
    queries = sum(new for new, _ in chunks)
    sizes = (item_bytes, kv_bytes)
    return attention_work(queries, pairs, keys, heads, kv_heads, head_dim, sizes)


def visible_pairs(new: int, prefix: int, window: int = 0) -> int:
    """How many (query, key) pairs a causal chunk of *new* tokens after *prefix* computes."""
    full = new * prefix + new * (new + 1) // 2
    if not window:
        return full
    # a query at position p sees p + 1 keys; those past the window are a triangle, cut at the chunk
    beyond = max(prefix + new - window, 0)
    before = max(prefix - window, 0)
    return full - (beyond * (beyond + 1) - before * (before + 1)) // 2
