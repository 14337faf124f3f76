"""Low-rank adapters, another for every row: shrink to the rank, expand, add to the result.

Rows are grouped by adapter (`row_groups`, as in Punica, arXiv:2310.18547, and S-LoRA), so that both
steps run on tensor cores. Shrink splits the summed dimension to fill the device; expand adds the
parts up in a fixed order, so that results repeat bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot
from .launch import Launch, architecture, power_of_two, same_everywhere
from .row_groups import group_rows
from .work import Work

#: rows a block and output columns a tile of expand, by how many rows an adapter has on average
CONFIGS = same_everywhere(
    {
        "few rows": Launch(rows=16, columns=64, num_warps=4, num_stages=3),
        "many rows": Launch(rows=64, columns=64, num_warps=4, num_stages=3),
    }
)
#: columns of a tile along the summed dimension of shrink
DEPTH = 128
#: parts of that dimension
SPLITS = {"few rows": 8, "many rows": 1}


def lora(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    adapter: torch.Tensor,
    scale: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """out[t] += scale[i] · b[i] (a[i] x[t]) with i = adapter[t], in place.

    Args:
        x: [rows, k].
        a: [adapters, rank, k].
        b: [adapters, n, rank].
        adapter: [rows] int32; negative: none, the row of *out* stays as it is.
        scale: [adapters] fp32.
        out: [rows, n], with a contiguous last dimension.
    """
    rows, k = x.shape
    adapters, n, rank = b.shape
    shape = _shape(rows, adapters)
    launch = CONFIGS[architecture(x.device), shape]
    splits = SPLITS[shape]
    order, group = group_rows(adapter, adapters, launch.rows)
    shrunk = torch.empty(splits, rows, rank, dtype=torch.float32, device=x.device)
    common = {
        "BLOCK_M": launch.rows,
        "BLOCK_R": max(16, power_of_two(rank)),
        "SPLITS": splits,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
    if rows:
        _shrink[(group.numel(), splits)](
            x, a, shrunk, order, group, rows, rank, k, x.stride(0), BLOCK_K=DEPTH, **common
        )
        _expand[(group.numel(), triton.cdiv(n, launch.columns))](
            shrunk,
            b,
            scale,
            out,
            order,
            group,
            rows,
            rank,
            n,
            out.stride(0),
            BLOCK_N=launch.columns,
            **common,
        )


def reference(
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    adapter: torch.Tensor,
    scale: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """`lora` in plain torch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    for i in range(a.shape[0]):
        mine = (adapter == i).nonzero().flatten()
        if mine.numel():
            added = x[mine].to(wide) @ a[i].to(wide).T @ b[i].to(wide).T * scale[i].to(wide)
            out[mine] = (out[mine].to(wide) + added).to(out.dtype)


def work(rows: int, k: int, n: int, rank: int, active: int, item_bytes: int) -> Work:
    """Of adding to *rows* rows that use *active* distinct adapters."""
    return Work(
        flops=2 * rows * rank * (k + n),
        bytes=item_bytes * (active * rank * (k + n) + rows * (k + 2 * n)) + 4 * rows,
    )


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Both steps at rank 16 and few rows an adapter, rank 64 and many."""
    found = []
    for shape, rank in (("few rows", 16), ("many rows", 64)):
        launch = CONFIGS[architecture, shape]
        constants = {"BLOCK_M": launch.rows, "BLOCK_R": rank, "SPLITS": SPLITS[shape]}
        for name, kernel, signature, tile in (
            ("shrink", _shrink, _SHRINK_SIGNATURE, {"BLOCK_K": DEPTH}),
            ("expand", _expand, _EXPAND_SIGNATURE, {"BLOCK_N": launch.columns}),
        ):
            found.append(
                Specialisation(
                    name=f"lora.{name}[rank {rank}, {shape}]",
                    kernel=kernel,
                    signature=signature,
                    constants=constants | tile,
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                    tensor_cores=True,
                )
            )
    return found


def _shape(rows: int, adapters: int) -> str:
    return "few rows" if rows <= 32 * adapters else "many rows"


_SHRINK_SIGNATURE = {
    "p_x": "*bf16",
    "p_a": "*bf16",
    "p_shrunk": "*fp32",
    "p_order": "*i32",
    "p_group": "*i32",
    "rows": "i32",
    "s_rank": "i32",
    "s_k": "i32",
    "s_x": "i32",
}
_EXPAND_SIGNATURE = {
    "p_shrunk": "*fp32",
    "p_b": "*bf16",
    "p_scale": "*fp32",
    "p_out": "*bf16",
    "p_order": "*i32",
    "p_group": "*i32",
    "rows": "i32",
    "s_rank": "i32",
    "s_n": "i32",
    "s_out": "i32",
}


@triton.jit(do_not_specialize=["rows"])
def _shrink(
    p_x,
    p_a,
    p_shrunk,
    p_order,
    p_group,
    rows,
    s_rank,
    s_k,
    s_x,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
):
    # one program: a block of rows of one adapter, a part of k; s_k and s_rank are the dimensions
    # and the strides of a and of shrunk
    i_g = tl.load(p_group + tl.program_id(0)).to(tl.int64)
    i_s = tl.program_id(1)
    if i_g >= 0:
        row = tl.load(p_order + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        m_m = row < rows
        o_r = tl.arange(0, BLOCK_R)
        o_k = tl.arange(0, BLOCK_K)
        m_r = o_r < s_rank
        x = p_x + row[:, None] * s_x + o_k[None, :]
        a = p_a + (i_g * s_rank + o_r)[None, :] * s_k + o_k[:, None]
        each = tl.cdiv(tl.cdiv(s_k, BLOCK_K), SPLITS) * BLOCK_K
        acc = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
        for first in range(i_s * each, tl.minimum(i_s * each + each, s_k), BLOCK_K):
            m_k = first + o_k < s_k
            b_x = tl.load(x + first, mask=m_m[:, None] & m_k[None, :], other=0.0)
            b_a = tl.load(a + first, mask=m_k[:, None] & m_r[None, :], other=0.0)
            acc += dot(b_x, b_a)
        o_out = (i_s.to(tl.int64) * rows + row)[:, None] * s_rank + o_r[None, :]
        tl.store(p_shrunk + o_out, acc, mask=m_m[:, None] & m_r[None, :])


@triton.jit(do_not_specialize=["rows"])
def _expand(
    p_shrunk,
    p_b,
    p_scale,
    p_out,
    p_order,
    p_group,
    rows,
    s_rank,
    s_n,
    s_out,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SPLITS: tl.constexpr,
):
    # one program: a block of rows of one adapter, a tile of columns
    i_g = tl.load(p_group + tl.program_id(0)).to(tl.int64)
    if i_g >= 0:
        row = tl.load(p_order + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        m_m = row < rows
        o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        o_r = tl.arange(0, BLOCK_R)
        m_n = o_n < s_n
        m_r = o_r < s_rank
        shrunk = p_shrunk + row[:, None] * s_rank + o_r[None, :]
        m_x = m_m[:, None] & m_r[None, :]
        b_x = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
        for _ in tl.static_range(SPLITS):
            b_x += tl.load(shrunk, mask=m_x, other=0.0)
            shrunk += rows * s_rank
        b = p_b + (i_g * s_n + o_n)[None, :] * s_rank + o_r[:, None]
        b_w = tl.load(b, mask=m_r[:, None] & m_n[None, :], other=0.0)
        added = dot(cast(b_x, b_w.dtype), b_w) * tl.load(p_scale + i_g)
        out = p_out + row[:, None] * s_out + o_n[None, :]
        m_out = m_m[:, None] & m_n[None, :]
        b_out = tl.load(out, mask=m_out, other=0.0).to(tl.float32) + added
        tl.store(out, cast(b_out, p_out.dtype.element_ty), mask=m_out)
