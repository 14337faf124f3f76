"""Attention of chunks that are trees of guesses: a token sees its prefix and its ancestors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .lang import Specialisation
from .launch import Launch, architecture, with_86
from .paged import attend, attention_work, gather
from .prefill_attention import attend_chunks, forms, key_bucket, specialisation
from .work import Work

#: rows: tokens times the heads of a group, columns: keys an iteration; by the bytes of a key
CONFIGS = with_86(
    {
        (80, "<=256 bytes"): Launch(rows=32, columns=64, num_warps=8, num_stages=2),
        (80, "<=512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=1),
        (80, ">512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=1),
        (89, "<=256 bytes"): Launch(rows=32, columns=64, num_warps=8, num_stages=2),
        (89, "<=512 bytes"): Launch(rows=32, columns=32, num_warps=4, num_stages=1),
        (89, ">512 bytes"): Launch(rows=16, columns=16, num_warps=4, num_stages=1),
        (90, "<=256 bytes"): Launch(rows=32, columns=64, num_warps=8, num_stages=2),
        (90, "<=512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=2),
        (90, ">512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=1),
        (100, "<=256 bytes"): Launch(rows=32, columns=64, num_warps=8, num_stages=3),
        (100, "<=512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=2),
        (100, ">512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=1),
    }
)


def tree_attention(
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
    """Softmax attention of trees of guessed tokens (SpecInfer, arXiv:2305.09781, §4).

    A token sees the prefix of its sequence, and of its own chunk what its row of the mask allows:
    its ancestors and itself. One that sees nothing gives zeros.

    Args:
        q: [tokens, heads, head_dim], the chunks one after the other; heads is a multiple of
            kv_heads.
        k_cache: [blocks, block_size, kv_heads, head_dim]; the chunks' own keys are in it already.
        v_cache: as *k_cache*, with the same strides.
        block_table: [sequences, max_blocks] int32.
        query_start: [sequences + 1] int32, where each chunk begins; the last is tokens.
        lengths: [sequences] int32, keys of each sequence with those of its chunk.
        tree_mask: [tokens, widest chunk] bool or int8, over the tokens of the own chunk.
        scale: of the products of q and k.
        k_scale: what a stored key of 1 stands for (fp8).
        v_scale: likewise for values.
        window: a token sees itself and the window - 1 before it in the text, where it stands
            behind as many tokens of its chunk as it sees; 0: all.

    Returns:
        [tokens, heads, head_dim] in the type of *q*.

    Raises:
        ValueError: shapes or strides that do not fit together, a scale that is not positive, or a
            window that a tree may exceed.
    """
    _check_window(window, tree_mask)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    mask = tree_mask.to(torch.int8)
    # tokens that see nothing of their chunk stand where the chunk begins
    depth = (mask != 0).sum(1, dtype=torch.int32) if window else lengths
    attend_chunks(
        (q, k_cache, v_cache, block_table, query_start, lengths),
        out,
        CONFIGS[architecture(q.device), key_bucket(q)],
        scale * k_scale,
        v_scale,
        window,
        (mask, depth),
    )
    return out


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


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Those of `prefill_attention`, with a mask."""
    return [
        specialisation(architecture, f"tree_attention[{name}]", CONFIGS, form, tree=True)
        for name, form in forms(architecture).items()
    ]


def _check_window(window: int, tree_mask: torch.Tensor) -> None:
    if 0 < window < tree_mask.shape[1]:
        raise ValueError(
            f"the window ({window}) is shorter than the widest tree ({tree_mask.shape[1]} tokens)"
        )
