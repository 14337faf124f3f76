"""Rows sorted by the group they belong to, each group padded to whole blocks.

The common front of grouped GEMMs (experts of an MoE layer, LoRA adapters): a block of rows then
multiplies one group's weights. Shapes depend on the number of rows alone, never on the ids, so it
can be captured in a CUDA graph and never waits for the GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation
from .launch import Launch, architecture, power_of_two, same_everywhere
from .work import Work

#: ids a program reads at once
CONFIGS = same_everywhere({"": Launch(rows=1, columns=1024, num_warps=4, num_stages=1)})


def group_rows(ids: torch.Tensor, groups: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the rows 0 … R-1 by ids[row], stably, every group starting at a multiple of *block*.

    Args:
        ids: [R] int32, the group of each row; negative: in no group.
        groups: how many groups there are; ids are below it.
        block: rows a block.

    Returns:
        rows [blocks · block] int32, R where padded, and group [blocks] int32, -1 for blocks at the
        end that hold nothing; blocks = R // block + min(groups, R), the most that can be needed.
    """
    count = ids.numel()
    blocks = count // block + min(groups, count)
    rows = torch.empty(blocks * block, dtype=torch.int32, device=ids.device)
    group = torch.empty(blocks, dtype=torch.int32, device=ids.device)
    launch = CONFIGS[architecture(ids.device), ""]
    if count:
        _group_rows[(groups + 1,)](
            ids,
            rows,
            group,
            count,
            blocks,
            GROUPS=groups,
            BINS=power_of_two(groups + 1),
            BLOCK=block,
            CHUNK=launch.columns,
            num_warps=launch.num_warps,
        )
    return rows, group


def reference(ids: torch.Tensor, groups: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`group_rows` in plain torch."""
    count = ids.numel()
    blocks = count // block + min(groups, count)
    rows = torch.full((blocks * block,), count, dtype=torch.int32, device=ids.device)
    group = torch.full((blocks,), -1, dtype=torch.int32, device=ids.device)
    start = 0
    for i_group in range(groups):
        members = (ids == i_group).nonzero().flatten().int()
        rows[start : start + members.numel()] = members
        used = triton.cdiv(members.numel(), block)
        group[start // block : start // block + used] = i_group
        start += used * block
    return rows, group


def work(rows: int) -> Work:
    """Of grouping *rows*: ids read, rows written."""
    return Work(flops=0, bytes=8 * rows)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Grouping by 8 and by 128 experts."""
    launch = CONFIGS[architecture, ""]
    pointers = {"p_ids": "*i32", "p_rows": "*i32", "p_group": "*i32"}
    return [
        Specialisation(
            name=f"row_groups[{groups}]",
            kernel=_group_rows,
            signature=pointers | {"count": "i32", "blocks": "i32"},
            constants={
                "GROUPS": groups,
                "BINS": 2 * groups,
                "BLOCK": 16,
                "CHUNK": launch.columns,
            },
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=False,
        )
        for groups in (8, 128)
    ]


@triton.jit(do_not_specialize=["count", "blocks"])
def _group_rows(
    p_ids,
    p_rows,
    p_group,
    count,
    blocks,
    GROUPS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    # one program a group: it counts all rows to learn where its own begin, then writes its own.
    # The program after the last group marks the blocks that are left.
    i_g = tl.program_id(0)
    o_bin = tl.arange(0, BINS)
    o_c = tl.arange(0, CHUNK)
    counts = tl.zeros((BINS,), tl.int32)
    for first in range(0, count, CHUNK):
        ids = tl.load(p_ids + first + o_c, mask=first + o_c < count, other=-1)
        counts += tl.histogram(tl.where(ids < 0, GROUPS, ids), BINS)
    padded = tl.where(o_bin < GROUPS, (counts + BLOCK - 1) // BLOCK * BLOCK, 0)
    start = tl.sum(tl.where(o_bin < i_g, padded, 0), 0)
    end = start + tl.sum(tl.where(o_bin == i_g, padded, 0), 0)
    if i_g == GROUPS:
        for i_block in range(start // BLOCK, blocks):
            tl.store(p_group + i_block, -1)
            o_r = i_block * BLOCK + tl.arange(0, BLOCK)
            tl.store(p_rows + o_r, tl.zeros((BLOCK,), tl.int32) + count)
    else:
        for i_block in range(start // BLOCK, end // BLOCK):
            tl.store(p_group + i_block, i_g)
        at = start
        for first in range(0, count, CHUNK):
            ids = tl.load(p_ids + first + o_c, mask=first + o_c < count, other=-1)
            mine = ids == i_g
            rank = tl.cumsum(mine.to(tl.int32), 0) - 1
            tl.store(p_rows + at + rank, first + o_c, mask=mine)
            at += tl.sum(mine.to(tl.int32), 0)
        o_b = tl.arange(0, BLOCK)
        tl.store(p_rows + at + o_b, tl.zeros((BLOCK,), tl.int32) + count, mask=at + o_b < end)
