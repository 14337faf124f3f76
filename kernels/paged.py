"""Attention over a paged cache in plain torch, which references share, and what it works."""

from __future__ import annotations

import torch

from .work import Work

#: bytes of an element of q and the output, and of one of the cache
Sizes = tuple[int, int]


def gather(
    cache: torch.Tensor, blocks: torch.Tensor, tokens: int, scale: float, dtype: torch.dtype
) -> torch.Tensor:
    """The first *tokens* keys or values of one sequence, [tokens, kv_heads, head_dim].

    Args:
        cache: [blocks, block_size, kv_heads, head_dim].
        blocks: the sequence's row of the block table.
        tokens: how many the sequence has.
        scale: what stored values stand for, 1 for all but fp8.
        dtype: of the result.
    """
    used = -(-tokens // cache.shape[1])
    return cache[blocks[:used].long()].flatten(0, 1)[:tokens].to(dtype) * scale


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor, scale: float
) -> torch.Tensor:
    """Softmax attention of grouped heads; a query that sees no key gives zeros.

    Args:
        q: [queries, heads, head_dim].
        k: [keys, kv_heads, head_dim].
        v: as *k*.
        visible: [queries, keys] bool.
        scale: of the products of q and k.
    """
    grouped = q.to(k.dtype).unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("mhgd,nhd->hgmn", grouped, k) * scale
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1).nan_to_num(0.0)
    return torch.einsum("hgmn,nhd->mhgd", weights, v).flatten(1, 2)


def attention_work(
    queries: int, pairs: int, keys: int, heads: int, kv_heads: int, head_dim: int, sizes: Sizes
) -> Work:
    """Of *queries* that see *pairs* query–key pairs in all, over *keys* read once."""
    moved = 2 * keys * kv_heads * head_dim * sizes[1] + 2 * queries * heads * head_dim * sizes[0]
    return Work(flops=4 * pairs * heads * head_dim, bytes=moved)


def check_heads(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    """Refuse shapes that the attention kernels cannot take.

    Raises:
        ValueError: heads are no multiple of kv heads, or head dimensions or the caches' strides
            differ.
    """
    heads, head_dim = q.shape[-2:]
    kv_heads = k_cache.shape[2]
    if heads % kv_heads:
        raise ValueError(f"{heads} heads are no multiple of the cache's {kv_heads} kv heads")
    if head_dim != k_cache.shape[3]:
        raise ValueError(f"q has head dimension {head_dim}, the cache {k_cache.shape[3]}")
    if k_cache.stride() != v_cache.stride():
        raise ValueError(
            f"caches of keys and values differ in strides: {k_cache.stride()} and "
            f"{v_cache.stride()}"
        )
