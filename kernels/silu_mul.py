"""The gated activation of a feed-forward layer: silu(gate) · up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast
from .launch import Launch, architecture, same_everywhere
from .work import Work

CONFIGS = same_everywhere({"any": Launch(rows=1, columns=1024, num_warps=4, num_stages=1)})


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up, computed in fp32: [tokens, 2 · ffn], gate first, to [tokens, ffn]."""
    tokens, ffn = gate_up.shape[0], gate_up.shape[1] // 2
    launch = CONFIGS[architecture(gate_up.device), "any"]
    out = torch.empty(tokens, ffn, dtype=gate_up.dtype, device=gate_up.device)
    if tokens:
        _silu_mul[(tokens, triton.cdiv(ffn, launch.columns))](
            gate_up,
            out,
            ffn,
            gate_up.stride(0),
            BLOCK=launch.columns,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


def reference(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu_mul` in plain torch."""
    wide = torch.promote_types(gate_up.dtype, torch.float32)
    gate, up = gate_up.to(wide).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)


def work(tokens: int, ffn: int, item_bytes: int = 2) -> Work:
    """Of one launch: gate and up in, their product out."""
    return Work(flops=5 * tokens * ffn, bytes=3 * item_bytes * tokens * ffn)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """The one form."""
    launch = CONFIGS[architecture, "any"]
    return [
        Specialisation(
            name="silu_mul",
            kernel=_silu_mul,
            signature={"p_x": "*bf16", "p_y": "*bf16", "s_ffn": "i32", "s_x": "i32"},
            constants={"BLOCK": launch.columns},
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=False,
        )
    ]


@triton.jit
def _silu_mul(p_x, p_y, s_ffn, s_x, BLOCK: tl.constexpr):
    # one program: a tile of a row; s_ffn is the width of the result as well
    i_t = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_f = o_f < s_ffn
    gate = tl.load(p_x + i_t * s_x + o_f, mask=m_f, other=0.0).to(tl.float32)
    up = tl.load(p_x + i_t * s_x + s_ffn + o_f, mask=m_f, other=0.0).to(tl.float32)
    small = tl.exp(-tl.abs(gate))  # never overflows
    sigmoid = tl.where(gate >= 0.0, 1.0, small) / (1.0 + small)
    tl.store(p_y + i_t * s_ffn + o_f, cast(gate * sigmoid * up, p_y.dtype.element_ty), mask=m_f)
