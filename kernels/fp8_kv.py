"""To fp8 e4m3 and back, with one scale: how 8-bit caches and activations are stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, e4m3_storage, saturate, widen
from .launch import Launch, architecture, same_everywhere
from .work import Work

CONFIGS = same_everywhere({"any": Launch(rows=1, columns=2048, num_warps=4, num_stages=1)})
E4M3 = torch.float8_e4m3fn
#: the greatest finite e4m3 value
LIMIT = 448.0


def quantize(x: torch.Tensor, scale: float) -> torch.Tensor:
    """The e4m3 nearest to x / scale, ties to even, clamped to ±448; NaN stays NaN."""
    out = torch.empty(x.shape, dtype=E4M3, device=x.device)
    _launch_convert(x.contiguous(), out, 1.0 / scale, quantize=True)
    return out


def dequantize(x8: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """x8 · scale in *dtype*."""
    out = torch.empty(x8.shape, dtype=dtype, device=x8.device)
    _launch_convert(x8.contiguous(), out, scale, quantize=False)
    return out


def to_e4m3(x: torch.Tensor) -> torch.Tensor:
    """*x* to the nearest e4m3, ties to even, clamped to ±448; NaN stays NaN."""
    return x.clamp(-LIMIT, LIMIT).to(E4M3)


def reference(x: torch.Tensor, scale: float) -> torch.Tensor:
    """`quantize` in plain torch."""
    return to_e4m3(x.to(torch.promote_types(x.dtype, torch.float32)) * (1.0 / scale))


def dequantize_reference(x8: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """`dequantize` in plain torch."""
    return (x8.to(torch.promote_types(dtype, torch.float32)) * scale).to(dtype)


def work(elements: int, item_bytes: int = 2) -> Work:
    """Of one launch in either direction; *item_bytes* is the wide type's."""
    return Work(flops=elements, bytes=(1 + item_bytes) * elements)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Both directions, of bf16."""
    fp8 = "*u8" if architecture < 89 else "*fp8e4nv"
    launch = CONFIGS[architecture, "any"]
    return [
        Specialisation(
            name=f"fp8_kv.{name}",
            kernel=_convert,
            signature={"p_x": p_x, "p_y": p_y, "elements": "i64", "factor": "fp32"},
            constants={"BLOCK": launch.columns, "QUANTIZE": name == "quantize"},
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=False,
        )
        for name, p_x, p_y in (("quantize", "*bf16", fp8), ("dequantize", fp8, "*bf16"))
    ]


def _launch_convert(x: torch.Tensor, y: torch.Tensor, factor: float, *, quantize: bool) -> None:
    known = architecture(x.device)
    launch = CONFIGS[known, "any"]
    if x.numel():
        _convert[(triton.cdiv(x.numel(), launch.columns),)](
            e4m3_storage(x, known),
            e4m3_storage(y, known),
            x.numel(),
            factor,
            BLOCK=launch.columns,
            QUANTIZE=quantize,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )


@triton.jit
def _convert(p_x, p_y, elements, factor, BLOCK: tl.constexpr, QUANTIZE: tl.constexpr):
    # one program: a run of elements
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < elements
    x = widen(tl.load(p_x + o, mask=m), tl.float32) * factor
    if QUANTIZE:
        x = saturate(x)
    tl.store(p_y + o, cast(x, p_y.dtype.element_ty), mask=m)
