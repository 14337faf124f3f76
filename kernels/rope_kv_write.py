"""Rotary position embedding of q and k, and the write of k and v into their slots of the cache."""

from __future__ import annotations

import torch

from .fp8_kv import E4M3, to_e4m3
from .work import Work


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> torch.Tensor:
    """`rope_kv_write` in plain torch."""
    wide = torch.promote_types(q.dtype, torch.float32)
    cos, sin = cos_sin[positions.long()].to(wide).unsqueeze(1).chunk(2, -1)
    kept = slots >= 0
    _store(k_cache, slots[kept], _rotate(k[kept].to(wide), cos[kept], sin[kept]), k_scale)
    _store(v_cache, slots[kept], v[kept].to(wide), v_scale)
    return _rotate(q.to(wide), cos, sin).to(q.dtype)


def work(
    tokens: int, heads: int, kv_heads: int, head_dim: int, item_bytes: int = 2, kv_bytes: int = 2
) -> Work:
    """Of one launch; a table row of cosines and sines is read once a token."""
    read = tokens * head_dim * (item_bytes * (heads + 2 * kv_heads) + 4) + 12 * tokens
    written = tokens * head_dim * (item_bytes * heads + 2 * kv_bytes * kv_heads)
    return Work(flops=3 * tokens * (heads + kv_heads) * head_dim, bytes=read + written)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _store(cache: torch.Tensor, slots: torch.Tensor, x: torch.Tensor, scale: float) -> None:
    block, offset = slots // cache.shape[1], slots % cache.shape[1]
    if cache.dtype == E4M3:
        bits = to_e4m3(x * (1.0 / scale)).view(torch.uint8)
        cache.view(torch.uint8)[block, offset] = bits
    else:
        cache[block, offset] = x.to(cache.dtype)
