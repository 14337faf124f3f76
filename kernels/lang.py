"""What every kernel shares: products and casts that are right under Triton's interpreter as well.

The interpreter computes bf16 on its bits as integers, truncates fp32 → bf16, and loses the carry of
fp32 → fp8 (seen in Triton 3.6.0 to 3.9.0; upstream calls bf16 there unsupported). So kernels load,
go to fp32, compute, and use `dot` and `cast`; on a GPU both are the plain operation.

Devices below sm_89 have no e4m3 type: there `e4m3_storage` passes such a tensor as uint8, and
`cast` to uint8 and `widen` from uint8 work on its bits: a kernel written with the two needs no
case of its own.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

#: whether kernels of this process run in the interpreter; read once, as Triton does
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
INTERP = tl.constexpr(INTERPRETED)


class Specialisation(NamedTuple):
    """One compiled form of a kernel; `specialisations(architecture=90)` of a module lists its own.

    The compile check reads it: every pointer, and every integer named ``s_…`` (a stride), is taken
    as divisible by 16, as the launcher finds them at real sizes, unless the kernel has it not look.

    Attributes:
        name: of the specialisation, unique in the module.
        kernel: the `triton.jit` function.
        signature: type of each argument that is not a constant: ``*bf16``, ``i32``, ``fp32`` …
        constants: the compile-time arguments.
        num_warps: warps of a program.
        num_stages: depth of software pipelining.
        tensor_cores: whether its machine code must hold tensor-core products.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    tensor_cores: bool


def e4m3_storage(tensor: torch.Tensor, architecture: int) -> torch.Tensor:
    """*tensor* as kernels take it: e4m3 is passed as uint8 to devices without the type."""
    if tensor.dtype == torch.float8_e4m3fn and architecture < 89:
        return tensor.view(torch.uint8)
    return tensor


def inline(function: Any) -> Any:
    """Decorate a function that kernels call, as `triton.jit` does.

    In the interpreter it stays plain Python: the kernel's own call has put the interpreter in the
    place of Triton's language already, and to do so again takes longer than most functions.
    """
    return function if INTERPRETED else triton.jit(function)


@inline
def dot(a, b):
    """Matrix product in fp32; fp32 operands stay exact in the interpreter, tf32 on a GPU."""
    if INTERP:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee" if INTERP else "tf32")


@inline
def cast(x, ty: tl.constexpr):
    """fp32 → *ty*, to the nearest, ties to even; uint8 holds e4m3's bits.

    fp8 must be in range: see `saturate`.
    """
    if ty == tl.uint8:
        x = _e4m3_bits(x)
    elif INTERP:
        if ty == tl.bfloat16:
            b = x.to(tl.int32, bitcast=True)
            b = (b + 0x7FFF + ((b >> 16) & 1)) & -65536
            x = b.to(tl.float32, bitcast=True)
        elif ty == tl.float8e4nv:
            x = _e4m3_bits(x).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
        elif ty == tl.float8e5:
            b = x.to(tl.int32, bitcast=True)
            b = (b + 0xFFFFF + ((b >> 21) & 1)) & -2097152
            x = b.to(tl.float32, bitcast=True)
    return x.to(ty)


@inline
def _e4m3_bits(x):
    """The e4m3 code, as int32, of fp32 *x* within ±448, or NaN."""
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    b = tl.abs(x).to(tl.int32, bitcast=True)
    normal = ((b + 0x7FFFF + ((b >> 20) & 1)) >> 20) - 960  # 960: the biases' difference, 120 << 3
    small = (tl.abs(x) + 24576.0).to(tl.int32, bitcast=True) - 0x46C00000  # multiples of 2^-9
    code = tl.where(tl.abs(x) < 0.015625, small, normal)
    return tl.where(x == x, code, 0x7F) | sign


@inline
def saturate(x):
    """fp32 clamped to e4m3's ±448; NaN stays NaN."""
    return tl.where(x > 448.0, 448.0, tl.where(x < -448.0, -448.0, x))


@inline
def widen(x, ty: tl.constexpr):
    """e4m3, or its bits as uint8, → the wider float type *ty*, exactly; others are converted."""
    if INTERP and x.dtype == tl.float8e4nv:
        x = x.to(tl.uint8, bitcast=True)
    if x.dtype == tl.uint8:
        b = x.to(tl.int16)
        half = (((b & 0x80) << 8) | ((b & 0x7F) << 7)).to(tl.float16, bitcast=True)
        wide = half.to(tl.float32) * 256.0  # the biases differ by 8
        x = tl.where((b & 0x7F) == 0x7F, float("nan"), wide)
    return x.to(ty)
