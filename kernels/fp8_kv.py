"""To fp8 e4m3 and back, with one scale: how 8-bit caches and activations are stored."""

from __future__ import annotations

import torch

from .work import Work

E4M3 = torch.float8_e4m3fn
#: the greatest finite e4m3 value
LIMIT = 448.0


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
