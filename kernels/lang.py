"""What every kernel shares: products and casts that are right under Triton's interpreter as well.

The interpreter computes bf16 on its bits as integers, truncates fp32 → bf16, and loses the carry of
fp32 → fp8 (seen in Triton 3.6.0 to 3.9.0; upstream calls bf16 there unsupported). So kernels load,
go to fp32, compute, and use `dot` and `cast`; on a GPU both are the plain operation.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

#: whether kernels of this process run in the interpreter; read once, as Triton does
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
INTERP = tl.constexpr(INTERPRETED)


@triton.jit
def dot(a, b):
    """Matrix product in fp32; fp32 operands stay exact in the interpreter, tf32 on a GPU."""
    if INTERP:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee" if INTERP else "tf32")


@triton.jit
def cast(x, ty: tl.constexpr):
    """fp32 → *ty*, to the nearest, ties to even; fp8 must be in range, or clamped before."""
    if INTERP:
        if ty == tl.bfloat16:
            b = x.to(tl.int32, bitcast=True)
            b = (b + 0x7FFF + ((b >> 16) & 1)) & -65536
            x = b.to(tl.float32, bitcast=True)
        elif ty == tl.float8e4nv:
            b = x.to(tl.int32, bitcast=True)
            b = (b + 0x7FFFF + ((b >> 20) & 1)) & -1048576
            subnormal = (x + 24576.0) - 24576.0  # multiples of 2^-9
            x = tl.where(tl.abs(x) < 0.015625, subnormal, b.to(tl.float32, bitcast=True))
        elif ty == tl.float8e5:
            b = x.to(tl.int32, bitcast=True)
            b = (b + 0xFFFFF + ((b >> 21) & 1)) & -2097152
            x = b.to(tl.float32, bitcast=True)
    return x.to(ty)
