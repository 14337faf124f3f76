"""The gated activation of a feed-forward layer: silu(gate) · up."""

from __future__ import annotations

import torch

from .work import Work


def reference(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu_mul` in plain torch."""
    wide = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = gate_up.to(wide).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)


def work(tokens: int, ffn: int, item_bytes: int = 2) -> Work:
    """Of one launch: gate and up in, their product out."""
    return Work(flops=5 * tokens * ffn, bytes=3 * item_bytes * tokens * ffn)
