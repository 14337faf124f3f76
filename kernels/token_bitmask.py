"""Constrained decoding: the logits of tokens that a grammar forbids become -inf."""

from __future__ import annotations

import torch

from .work import Work

#: tokens in one int32 of a mask, the lowest bit first
BITS = 32


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
