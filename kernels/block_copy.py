"""Blocks of a cache copied inside it, gathered into a buffer, and scattered from one."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation
from .launch import Launch, architecture, same_everywhere
from .work import Work

#: columns: words of four bytes
CONFIGS = same_everywhere({"any": Launch(rows=1, columns=2048, num_warps=4, num_stages=1)})


def copy_blocks(cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy block pairs[i, 0] of *cache* over block pairs[i, 1], in place.

    Args:
        cache: [blocks, ...], each block contiguous; any type, copied bit by bit.
        pairs: [copies, 2] int64. No block may be written and read, or written twice, in one call:
            copies run side by side.
    """
    _launch_copy(cache, cache, pairs[:, 0], pairs[:, 1], pairs.shape[0])


def gather_blocks(cache: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Blocks *ids* [n] int64 of *cache* [blocks, ...] as one buffer [n, ...]."""
    out = torch.empty(ids.shape[0], *cache.shape[1:], dtype=cache.dtype, device=cache.device)
    _launch_copy(cache, out, ids, None, ids.shape[0])
    return out


def scatter_blocks(cache: torch.Tensor, ids: torch.Tensor, blocks: torch.Tensor) -> None:
    """Write *blocks* [n, ...] over blocks *ids* [n] int64, all different, of *cache*."""
    _launch_copy(blocks, cache, None, ids, ids.shape[0])


def reference(cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """`copy_blocks` in plain torch."""
    scatter_reference(cache, pairs[:, 1], gather_reference(cache, pairs[:, 0]))


def gather_reference(cache: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """`gather_blocks` in plain torch."""
    return _bytes(cache)[ids].view(cache.dtype).view(-1, *cache.shape[1:])


def scatter_reference(cache: torch.Tensor, ids: torch.Tensor, blocks: torch.Tensor) -> None:
    """`scatter_blocks` in plain torch."""
    _bytes(cache)[ids] = _bytes(blocks)


def work(blocks: int, block_bytes: int) -> Work:
    """Of one launch: each block read once and written once."""
    return Work(flops=0, bytes=2 * blocks * block_bytes)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """A gather and a copy, in words of four bytes."""
    launch = CONFIGS[architecture, "any"]
    return [
        Specialisation(
            name=f"block_copy.{name}",
            kernel=_copy,
            signature={
                "p_from": "*i32",
                "p_to": "*i32",
                "p_from_ids": "*i64",
                "p_to_ids": "*i64",
                "from_step": "i32",
                "to_step": "i32",
                "s_words": "i32",
                "s_from": "i64",
                "s_to": "i64",
            },
            constants={"FROM_IDS": True, "TO_IDS": to_ids, "BLOCK": launch.columns},
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=False,
        )
        for name, to_ids in (("gather", False), ("copy", True))
    ]


def _launch_copy(
    source: torch.Tensor,
    target: torch.Tensor,
    source_ids: torch.Tensor | None,
    target_ids: torch.Tensor | None,
    blocks: int,
) -> None:
    if not blocks:
        return
    launch = CONFIGS[architecture(source.device), "any"]
    from_words, to_words = _words(source), _words(target)
    _copy[(blocks, triton.cdiv(from_words.shape[1], launch.columns))](
        from_words,
        to_words,
        source_ids if source_ids is not None else target_ids,
        target_ids if target_ids is not None else source_ids,
        source_ids.stride(0) if source_ids is not None else 0,
        target_ids.stride(0) if target_ids is not None else 0,
        from_words.shape[1],
        from_words.stride(0),
        to_words.stride(0),
        FROM_IDS=source_ids is not None,
        TO_IDS=target_ids is not None,
        BLOCK=launch.columns,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


def _words(blocks: torch.Tensor) -> torch.Tensor:
    as_bytes = _bytes(blocks)
    return as_bytes.view(torch.int32) if as_bytes.shape[1] % 4 == 0 else as_bytes


def _bytes(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.view(blocks.shape[0], -1).view(torch.uint8)


@triton.jit
def _copy(
    p_from,
    p_to,
    p_from_ids,
    p_to_ids,
    from_step,
    to_step,
    s_words,
    s_from,
    s_to,
    FROM_IDS: tl.constexpr,
    TO_IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # one program: a run of s_words words of one block; without ids, blocks are taken in order
    i_b = tl.program_id(0).to(tl.int64)
    i_from = i_b
    i_to = i_b
    if FROM_IDS:
        i_from = tl.load(p_from_ids + i_b * from_step).to(tl.int64)
    if TO_IDS:
        i_to = tl.load(p_to_ids + i_b * to_step).to(tl.int64)
    o_w = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_w = o_w < s_words
    words = tl.load(p_from + i_from * s_from + o_w, mask=m_w)
    tl.store(p_to + i_to * s_to + o_w, words, mask=m_w)
