"""GEMM of e4m3 activations with e4m3 weights, scaled a tensor or a row at a time.

A table says where torch's `_scaled_mm` (cuBLASLt) is taken instead of the Triton kernel. On sm_90
products of e4m3 accumulate in fewer bits than fp32 in either.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot, e4m3_storage, widen
from .launch import ARCHITECTURES, Launch, architecture
from .work import Work

#: tiles of rows and output columns, by the number of rows
CONFIGS: dict[tuple[int, str], Launch] = {
    (a, shape): launch
    for a in ARCHITECTURES
    for shape, launch in {
        "<=16 rows": Launch(rows=16, columns=64, num_warps=4, num_stages=4),
        "<=64 rows": Launch(rows=64, columns=64, num_warps=4, num_stages=3),
        # below sm_89 operands are widened in registers, which leaves room for a smaller tile
        ">64 rows": Launch(rows=128, columns=64 if a < 89 else 128, num_warps=8, num_stages=3),
    }.items()
}
#: columns of a tile along the summed dimension
DEPTH = 128
#: where `_scaled_mm` is taken: a library's GEMM of many rows; not measured on a GPU yet
SCALED_MM = frozenset(
    (a, shape) for a in ARCHITECTURES if a >= 89 for shape in ("<=64 rows", ">64 rows")
)
#: `_scaled_mm` takes dimensions in multiples of this
SCALED_MM_MULTIPLE = 16


def fp8_gemm(
    x8: torch.Tensor,
    w8: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(x_scale · x8) @ (w_scale · w8)ᵀ.

    Args:
        x8: [rows, k] e4m3.
        w8: [n, k] e4m3.
        x_scale: fp32, one element or [rows].
        w_scale: fp32, one element or [n].
        dtype: of the result.

    Returns:
        [rows, n] in *dtype*.
    """
    device_architecture = architecture(x8.device)
    shape = _shape(x8.shape[0])
    if (
        x8.is_cuda
        and (device_architecture, shape) in SCALED_MM
        and _scaled_mm_takes(w8, x_scale, w_scale, dtype, device_architecture)
    ):
        return _by_scaled_mm(x8, w8, x_scale, w_scale, dtype)
    return _by_triton(x8, w8, x_scale, w_scale, dtype, CONFIGS[device_architecture, shape])


def reference(
    x8: torch.Tensor,
    w8: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`fp8_gemm` in plain torch."""
    wide = torch.promote_types(dtype, torch.float32)
    product = x8.to(wide) @ w8.to(wide).T
    return (product * x_scale.to(wide).reshape(-1, 1) * w_scale.to(wide).reshape(1, -1)).to(dtype)


def work(rows: int, k: int, n: int, item_bytes: int) -> Work:
    """Of one GEMM whose result has *item_bytes* an element; operands have one."""
    return Work(flops=2 * rows * k * n, bytes=rows * k + n * k + item_bytes * rows * n)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """At few, some and many rows; below sm_89 on e4m3's bits."""
    fp8 = "*fp8e4nv" if architecture >= 89 else "*u8"
    found = []
    for rows in (16, 64, 4096):
        launch = CONFIGS[architecture, _shape(rows)]
        found.append(
            Specialisation(
                name=f"fp8_gemm[{rows} rows]",
                kernel=_gemm,
                signature={"p_x": fp8, "p_w": fp8} | _SIGNATURE,
                constants={
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


def _shape(rows: int) -> str:
    return "<=16 rows" if rows <= 16 else "<=64 rows" if rows <= 64 else ">64 rows"


def _scaled_mm_takes(
    w8: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    dtype: torch.dtype,
    architecture: int,
) -> bool:
    if any(size % SCALED_MM_MULTIPLE for size in w8.shape):
        return False
    a_tensor = x_scale.numel() == w_scale.numel() == 1
    return a_tensor or (dtype == torch.bfloat16 and architecture >= 90)


def _by_scaled_mm(
    x8: torch.Tensor,
    w8: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    if x_scale.numel() == w_scale.numel() == 1:
        scales = x_scale.reshape(()), w_scale.reshape(())
    else:
        scales = (
            x_scale.reshape(-1, 1).expand(x8.shape[0], 1).contiguous(),
            w_scale.reshape(1, -1).expand(1, w8.shape[0]).contiguous(),
        )
    return torch._scaled_mm(x8, w8.T, *scales, out_dtype=dtype)


def _by_triton(
    x8: torch.Tensor,
    w8: torch.Tensor,
    x_scale: torch.Tensor,
    w_scale: torch.Tensor,
    dtype: torch.dtype,
    launch: Launch,
) -> torch.Tensor:
    rows, k = x8.shape
    n = w8.shape[0]
    device_architecture = architecture(x8.device)
    out = torch.empty(rows, n, dtype=dtype, device=x8.device)
    if rows:
        _gemm[(triton.cdiv(rows, launch.rows), triton.cdiv(n, launch.columns))](
            e4m3_storage(x8, device_architecture),
            e4m3_storage(w8, device_architecture),
            x_scale,
            w_scale,
            out,
            rows,
            n,
            k,
            x8.stride(0),
            w8.stride(0),
            int(x_scale.numel() > 1),
            int(w_scale.numel() > 1),
            BLOCK_M=launch.rows,
            BLOCK_N=launch.columns,
            BLOCK_K=DEPTH,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


_SIGNATURE = {
    "p_x_scale": "*fp32",
    "p_w_scale": "*fp32",
    "p_out": "*bf16",
    "rows": "i32",
    "s_n": "i32",
    "s_k": "i32",
    "s_x": "i32",
    "s_w": "i32",
    "x_step": "i32",
    "w_step": "i32",
}


@triton.jit(do_not_specialize=["rows"])
def _gemm(
    p_x,
    p_w,
    p_x_scale,
    p_w_scale,
    p_out,
    rows,
    s_n,
    s_k,
    s_x,
    s_w,
    x_step,
    w_step,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # one program: a tile of the result; s_n and s_k are the dimensions, s_n the result's stride;
    # the steps are 1 where a scale belongs to a row, 0 where to the whole operand
    o_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_k = tl.arange(0, BLOCK_K)
    m_m = o_m < rows
    m_n = o_n < s_n
    x = p_x + o_m.to(tl.int64)[:, None] * s_x + o_k[None, :]
    w = p_w + o_n.to(tl.int64)[None, :] * s_w + o_k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, s_k, BLOCK_K):
        m_k = first + o_k < s_k
        b_x = tl.load(x + first, mask=m_m[:, None] & m_k[None, :], other=0.0)
        b_w = tl.load(w + first, mask=m_k[:, None] & m_n[None, :], other=0.0)
        if p_x.dtype.element_ty == tl.uint8:
            b_x = widen(b_x, tl.float16)
            b_w = widen(b_w, tl.float16)
        acc += dot(b_x, b_w)
    x_scale = tl.load(p_x_scale + o_m * x_step, mask=m_m, other=0.0)
    w_scale = tl.load(p_w_scale + o_n * w_step, mask=m_n, other=0.0)
    b_out = cast(acc * x_scale[:, None] * w_scale[None, :], p_out.dtype.element_ty)
    o_out = o_m.to(tl.int64)[:, None] * s_n + o_n[None, :]
    tl.store(p_out + o_out, b_out, mask=m_m[:, None] & m_n[None, :])
