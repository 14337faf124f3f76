"""Constrained decoding: the logits of tokens that a grammar forbids become -inf."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation
from .launch import Launch, architecture, same_everywhere
from .work import Work

CONFIGS = same_everywhere({"any": Launch(rows=1, columns=4096, num_warps=8, num_stages=1)})
#: tokens in one int32 of a mask, the lowest bit first
BITS = 32


def apply_bitmask(logits: torch.Tensor, mask: torch.Tensor, row_index: torch.Tensor) -> None:
    """Set forbidden logits to -inf, in place.

    Args:
        logits: [rows, vocabulary], rows contiguous.
        mask: [masks, ceil(vocabulary / 32)] int32; a bit of 1 allows its token.
        row_index: [masks] int32, the row of *logits* that each mask is for; -1 for none.
    """
    vocabulary = logits.shape[1]
    launch = CONFIGS[architecture(logits.device), "any"]
    if mask.shape[0]:
        _apply[(mask.shape[0], triton.cdiv(vocabulary, launch.columns))](
            logits,
            mask,
            row_index,
            vocabulary,
            logits.stride(0),
            mask.stride(0),
            BLOCK=launch.columns,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )


def reference(logits: torch.Tensor, mask: torch.Tensor, row_index: torch.Tensor) -> None:
    """`apply_bitmask` in plain torch."""
    kept = row_index >= 0
    rows = row_index[kept].long()
    shifts = torch.arange(BITS, dtype=torch.int32, device=mask.device)
    allowed = ((mask[kept].unsqueeze(-1) >> shifts) & 1).flatten(1).bool()
    forbidden = ~allowed[:, : logits.shape[1]]
    logits[rows] = logits[rows].masked_fill(forbidden, float("-inf"))


def work(rows: int, vocabulary: int, item_bytes: int = 4) -> Work:
    """Of one launch that forbids nearly all: a bit read and a logit written a token."""
    return Work(flops=0, bytes=rows * vocabulary * item_bytes + rows * (-(-vocabulary // BITS)) * 4)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Logits of fp32."""
    launch = CONFIGS[architecture, "any"]
    return [
        Specialisation(
            name="token_bitmask",
            kernel=_apply,
            signature={
                "p_logits": "*fp32",
                "p_mask": "*i32",
                "p_row_index": "*i32",
                "vocabulary": "i32",
                "s_logits": "i32",
                "s_mask": "i32",
            },
            constants={"BLOCK": launch.columns},
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=False,
        )
    ]


@triton.jit
def _apply(p_logits, p_mask, p_row_index, vocabulary, s_logits, s_mask, BLOCK: tl.constexpr):
    # one program: a run of tokens of one mask
    i_m = tl.program_id(0).to(tl.int64)
    i_r = tl.load(p_row_index + i_m).to(tl.int64)
    if i_r >= 0:
        o_v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        m_v = o_v < vocabulary
        word = tl.load(p_mask + i_m * s_mask + o_v // 32, mask=m_v, other=-1)
        forbidden = m_v & (((word >> (o_v % 32)) & 1) == 0)
        lowest = tl.full((BLOCK,), -float("inf"), tl.float32).to(p_logits.dtype.element_ty)
        tl.store(p_logits + i_r * s_logits + o_v, lowest, mask=forbidden)
