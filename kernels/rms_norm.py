"""Root-mean-square normalisation of rows, alone and with the residual added first."""

from __future__ import annotations

import torch

from .work import Work


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


def _normalised(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x.dtype)
