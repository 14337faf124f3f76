"""The next token from logits: greedy, or drawn among the top k and the nucleus of mass p."""

from __future__ import annotations

import torch

from .work import Work


def greedy_reference(logits: torch.Tensor) -> torch.Tensor:
    """`greedy` in plain torch."""
    best = logits == logits.amax(-1, keepdim=True)
    return best.to(torch.uint8).argmax(-1)


def reference(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """`sample` in plain torch, in float64."""
    x = logits.double()
    kept = kept_tokens(x, temperature, top_k, top_p)
    warm = torch.where(temperature > 0, temperature, 1.0).double()
    mass = ((x - x.amax(-1, keepdim=True)) / warm[:, None]).exp() * kept
    cumulative = mass.cumsum(-1)
    target = uniform.double() * cumulative[:, -1]
    drawn = (cumulative > target[:, None]).to(torch.uint8).argmax(-1)
    return torch.where(temperature > 0, drawn, greedy_reference(logits))


def kept_tokens(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """[rows, vocabulary] bool: which tokens `sample` draws from; equal logits stay together."""
    vocabulary = logits.shape[1]
    warm = torch.where(temperature > 0, temperature, 1.0).double()
    ordered = logits.double().sort(dim=-1, descending=True).values
    k = torch.where((top_k > 0) & (top_k < vocabulary), top_k, vocabulary).long()
    ordered = ordered.masked_fill(ordered < ordered.gather(1, k[:, None] - 1), float("-inf"))
    mass = (ordered / warm[:, None]).softmax(-1)
    full = mass.cumsum(-1) >= top_p.clamp(0.0, 1.0).double()[:, None]
    last_of_k = (ordered > float("-inf")).sum(-1) - 1
    last = torch.where(full.any(-1) & (top_p < 1.0), full.to(torch.uint8).argmax(-1), last_of_k)
    return logits.double() >= ordered.gather(1, last[:, None])


def work(rows: int, vocabulary: int, item_bytes: int = 4) -> Work:
    """Of one launch: every logit once, though cuts of top-k and top-p pass over it many times."""
    return Work(flops=4 * rows * vocabulary, bytes=rows * (vocabulary * item_bytes + 8))
