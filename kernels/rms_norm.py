"""Root-mean-square normalisation of rows, alone and with the residual added first."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast
from .launch import Launch, architecture, power_of_two, same_everywhere
from .work import Work

#: rows a program, by the width; a program holds whole rows, so columns follow from the width
CONFIGS = same_everywhere(
    {
        "<=512 wide": Launch(rows=8, columns=0, num_warps=4, num_stages=1),
        "<=2048 wide": Launch(rows=1, columns=0, num_warps=4, num_stages=1),
        "<=8192 wide": Launch(rows=1, columns=0, num_warps=8, num_stages=1),
        ">8192 wide": Launch(rows=1, columns=0, num_warps=16, num_stages=1),
    }
)
WIDEST = 32768


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) · weight, by row, computed in fp32.

    Args:
        x: [rows, width], rows contiguous.
        weight: [width].
        eps: what keeps a row of zeros finite.

    Raises:
        ValueError: rows are wider than `WIDEST`.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch_norm(x, x, weight, y, y, eps, add=False)
    return y


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rms_norm` of x + residual, and that sum; the norm is taken before the sum is rounded.

    Args:
        x: [rows, width], rows contiguous.
        residual: as *x*.
        weight: [width].
        eps: what keeps a row of zeros finite.

    Raises:
        ValueError: rows are wider than `WIDEST`.
    """
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty_like(y)
    _launch_norm(x, residual, weight, y, total, eps, add=True)
    return y, total


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm` in plain torch."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return _normalised(wide, weight, eps).to(x.dtype)


def add_reference(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_rms_norm` in plain torch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.to(wide) + residual.to(wide)
    return _normalised(total, weight, eps).to(x.dtype), total.to(x.dtype)


def work(tokens: int, width: int, *, residual: bool = False, item_bytes: int = 2) -> Work:
    """Of one launch: x in, y out, with *residual* the same again; the weight once."""
    rows = (4 if residual else 2) * tokens
    return Work(
        flops=(5 if residual else 4) * tokens * width, bytes=item_bytes * width * (rows + 1)
    )


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """A head's norm and hidden sizes up to the widest of each bucket."""
    found = []
    for width in (128, 2048, 8192, 16384):
        for add in (False, True):
            launch = CONFIGS[architecture, _bucket(width)]
            found.append(
                Specialisation(
                    name=f"rms_norm[{width}{', add' if add else ''}]",
                    kernel=_norm,
                    signature=_SIGNATURE,
                    constants={
                        "WIDTH": width,
                        "BLOCK_R": launch.rows,
                        "BLOCK_N": power_of_two(width),
                        "ADD": add,
                    },
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                    tensor_cores=False,
                )
            )
    return found


def _bucket(width: int) -> str:
    for bound in (512, 2048, 8192):
        if width <= bound:
            return f"<={bound} wide"
    return ">8192 wide"


def _launch_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    y: torch.Tensor,
    total: torch.Tensor,
    eps: float,
    *,
    add: bool,
) -> None:
    rows, width = x.shape
    if width > WIDEST:
        raise ValueError(f"rows of {width} are wider than {WIDEST}, the most a program holds")
    launch = CONFIGS[architecture(x.device), _bucket(width)]
    if rows:
        _norm[(triton.cdiv(rows, launch.rows),)](
            x,
            residual,
            weight,
            y,
            total,
            rows,
            eps,
            x.stride(0),
            residual.stride(0),
            WIDTH=width,
            BLOCK_R=launch.rows,
            BLOCK_N=power_of_two(width),
            ADD=add,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )


def _normalised(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x.dtype)


_SIGNATURE = {
    "p_x": "*bf16",
    "p_residual": "*bf16",
    "p_weight": "*bf16",
    "p_y": "*bf16",
    "p_total": "*bf16",
    "rows": "i32",
    "eps": "fp32",
    "s_x": "i32",
    "s_residual": "i32",
}


@triton.jit(do_not_specialize=["rows"])
def _norm(
    p_x,
    p_residual,
    p_weight,
    p_y,
    p_total,
    rows,
    eps,
    s_x,
    s_residual,
    WIDTH: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ADD: tl.constexpr,
):
    # one program: whole rows
    o_r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_n = tl.arange(0, BLOCK_N)
    m_n = o_n < WIDTH
    m = (o_r < rows)[:, None] & m_n[None, :]
    o_r = o_r.to(tl.int64)[:, None]
    x = tl.load(p_x + o_r * s_x + o_n[None, :], mask=m, other=0.0).to(tl.float32)
    o_y = o_r * WIDTH + o_n[None, :]
    if ADD:
        o_residual = o_r * s_residual + o_n[None, :]
        x += tl.load(p_residual + o_residual, mask=m, other=0.0).to(tl.float32)
        tl.store(p_total + o_y, cast(x, p_total.dtype.element_ty), mask=m)
    weight = tl.load(p_weight + o_n, mask=m_n, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1) / WIDTH + eps)
    y = x * inverse[:, None] * weight[None, :]
    tl.store(p_y + o_y, cast(y, p_y.dtype.element_ty), mask=m)
