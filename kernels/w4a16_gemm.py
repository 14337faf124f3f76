"""GEMM of 16-bit activations with 4-bit weights, dequantised in registers (AWQ and GPTQ style)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot
from .launch import Launch, architecture, same_everywhere
from .work import Work

#: weights in one int32, the lowest nibble first
NIBBLES = 8

#: tiles of rows and output columns, by the number of rows
CONFIGS = same_everywhere(
    {
        "<=16 rows": Launch(rows=16, columns=64, num_warps=4, num_stages=4),
        "<=64 rows": Launch(rows=32, columns=128, num_warps=4, num_stages=3),
        ">64 rows": Launch(rows=64, columns=128, num_warps=4, num_stages=3),
    }
)
#: columns of a tile along the summed dimension; a smaller group makes it smaller
DEPTH = 64


def w4a16_gemm(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """x @ w with w[k, n] = (nibble - zeros[k // group, n]) · scales[k // group, n].

    Args:
        x: [rows, k].
        packed: [k // 8, n] int32, eight weights along k in one, the lowest nibble first.
        scales: [k // group, n].
        zeros: [k // group, n].

    Returns:
        [rows, n] in the type of *x*.

    Raises:
        ValueError: the group is no multiple of 16 or, above 64, none of 64.
    """
    rows, k = x.shape
    n = packed.shape[1]
    group = k // scales.shape[0]
    depth = _depth(group)
    launch = _launch(architecture(x.device), rows)
    out = torch.empty(rows, n, dtype=x.dtype, device=x.device)
    if rows:
        _gemm[(triton.cdiv(rows, launch.rows), triton.cdiv(n, launch.columns))](
            x,
            packed,
            scales,
            zeros,
            out,
            rows,
            n,
            k,
            x.stride(0),
            packed.stride(0),
            GROUP=group,
            BLOCK_M=launch.rows,
            BLOCK_N=launch.columns,
            BLOCK_K=depth,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


def reference(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """`w4a16_gemm` in plain torch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    shifts = 4 * torch.arange(NIBBLES, dtype=torch.int32, device=x.device)
    nibbles = ((packed[:, None, :] >> shifts[None, :, None]) & 0xF).flatten(0, 1)
    group = nibbles.shape[0] // scales.shape[0]
    scale = scales.to(wide).repeat_interleave(group, dim=0)
    zero = zeros.to(wide).repeat_interleave(group, dim=0)
    return (x.to(wide) @ ((nibbles.to(wide) - zero) * scale)).to(x.dtype)


def pack(nibbles: torch.Tensor) -> torch.Tensor:
    """[k, n] integers of 0 … 15 as `w4a16_gemm` reads them: [k // 8, n] int32."""
    by_word = nibbles.to(torch.int64).unflatten(0, (-1, NIBBLES))
    shifts = 4 * torch.arange(NIBBLES, device=nibbles.device)
    words = (by_word << shifts[None, :, None]).sum(1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def work(rows: int, k: int, n: int, group: int, item_bytes: int) -> Work:
    """Of one GEMM: weights at half a byte, with a scale and a zero for every *group* of them."""
    weights = k * n // 2 + 2 * item_bytes * (k // group) * n
    return Work(flops=2 * rows * k * n, bytes=weights + item_bytes * rows * (k + n))


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Groups of 128, at few, some and many rows."""
    found = []
    for rows in (16, 64, 4096):
        launch = _launch(architecture, rows)
        found.append(
            Specialisation(
                name=f"w4a16_gemm[{rows} rows]",
                kernel=_gemm,
                signature=_SIGNATURE,
                constants={
                    "GROUP": 128,
                    "BLOCK_M": launch.rows,
                    "BLOCK_N": launch.columns,
                    "BLOCK_K": DEPTH,
                },
                num_warps=launch.num_warps,
                num_stages=launch.num_stages,
                tensor_cores=True,
            )
        )
    return found


def _launch(architecture: int, rows: int) -> Launch:
    shape = "<=16 rows" if rows <= 16 else "<=64 rows" if rows <= 64 else ">64 rows"
    return CONFIGS[architecture, shape]


def _depth(group: int) -> int:
    for depth in (DEPTH, 32, 16):
        if group % depth == 0:
            return depth
    raise ValueError(f"the group of a scale ({group} weights) is no multiple of 16")


_SIGNATURE = {
    "p_x": "*bf16",
    "p_packed": "*i32",
    "p_scales": "*bf16",
    "p_zeros": "*bf16",
    "p_out": "*bf16",
    "rows": "i32",
    "s_n": "i32",
    "s_k": "i32",
    "s_x": "i32",
    "s_packed": "i32",
}


@triton.jit(do_not_specialize=["rows"])
def _gemm(
    p_x,
    p_packed,
    p_scales,
    p_zeros,
    p_out,
    rows,
    s_n,
    s_k,
    s_x,
    s_packed,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # one program: a tile of the result; s_n and s_k are the dimensions, and s_n the stride of
    # scales, zeros and result. Words are read once and widened to their eight weights here.
    o_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    m_m = o_m < rows
    m_n = o_n < s_n
    x = p_x + o_m.to(tl.int64)[:, None] * s_x + o_k[None, :]
    word = p_packed + tl.arange(0, BLOCK_K // 8)[:, None] * s_packed + o_n[None, :]
    shift = (tl.arange(0, 8) * 4)[None, :, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, s_k, BLOCK_K):
        b_x = tl.load(x + first, mask=m_m[:, None], other=0.0)
        b_word = tl.load(word + first // 8 * s_packed, mask=m_n[None, :], other=0)
        nibble = tl.reshape((b_word[:, None, :] >> shift) & 0xF, (BLOCK_K, BLOCK_N))
        o_g = (first // GROUP) * s_n + o_n
        scale = tl.load(p_scales + o_g, mask=m_n, other=0.0).to(tl.float32)
        zero = tl.load(p_zeros + o_g, mask=m_n, other=0.0).to(tl.float32)
        b_w = (nibble.to(tl.float32) - zero[None, :]) * scale[None, :]
        acc += dot(b_x, cast(b_w, b_x.dtype))
    o_out = o_m.to(tl.int64)[:, None] * s_n + o_n[None, :]
    b_out = cast(acc, p_out.dtype.element_ty)
    tl.store(p_out + o_out, b_out, mask=m_m[:, None] & m_n[None, :])
