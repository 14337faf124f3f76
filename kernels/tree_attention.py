"""Attention of chunks that are trees of guesses: a token sees its prefix and its ancestors."""

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
    tree_mask: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
) -> torch.Tensor:
    """`tree_attention` in plain torch."""
    _check_window(window, tree_mask)
    wide = torch.promote_types(q.dtype, torch.float32)
    starts = query_start.tolist()
    out = torch.zeros_like(q)
    for i, tokens in enumerate(lengths.tolist()):
        chunk = slice(starts[i], starts[i + 1])
        new = chunk.stop - chunk.start
        k = gather(k_cache, block_table[i], tokens, k_scale, wide)
        v = gather(v_cache, block_table[i], tokens, v_scale, wide)
        tree = tree_mask[chunk, :new].bool()
        prefix = torch.arange(tokens - new, device=q.device).expand(new, -1)
        seen = torch.ones_like(prefix, dtype=torch.bool)
        if window:
            position = tokens - new + tree.sum(1, keepdim=True) - 1
            seen = prefix > position - window
        out[chunk] = attend(q[chunk], k, v, torch.cat([seen, tree], 1), scale).to(q.dtype)
    return out


def work(
    trees: Sequence[tuple[int, int]],
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    item_bytes: int = 2,
    kv_bytes: int = 2,
) -> Work:
    """Of one launch over *trees*, each (tokens, tokens of its prefix), every pair computed."""
    pairs = sum(new * (prefix + new) for new, prefix in trees)
    keys = sum(prefix + new for new, prefix in trees)
    queries = sum(new for new, _ in trees)
    sizes = (item_bytes, kv_bytes)
    found = attention_work(queries, pairs, keys, heads, kv_heads, head_dim, sizes)
    return Work(found.flops, found.bytes + sum(new * new for new, _ in trees))


def _check_window(window: int, tree_mask: torch.Tensor) -> None:
    if 0 < window < tree_mask.shape[1]:
        raise ValueError(
            f"the window ({window}) is shorter than the widest tree ({tree_mask.shape[1]} tokens)"
        )
