"""Top-k softmax routing: which experts a token goes to, and how much each counts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation
from .launch import Launch, architecture, power_of_two, same_everywhere
from .work import Work

#: tokens and experts a program takes, by the number of experts
CONFIGS = same_everywhere(
    {
        "<=64": Launch(rows=16, columns=64, num_warps=4, num_stages=1),
        "<=256": Launch(rows=8, columns=256, num_warps=4, num_stages=1),
        "<=1024": Launch(rows=4, columns=1024, num_warps=4, num_stages=1),
    }
)
MOST_EXPERTS = 1024


def route(
    logits: torch.Tensor, top_k: int, renormalize: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The *top_k* experts of every token, the likeliest first; equal logits: the lower id first.

    Args:
        logits: [tokens, experts] of the router.
        top_k: experts a token, at most *experts*.
        renormalize: divide the chosen probabilities by their sum (Mixtral, Qwen3); otherwise they
            stay what the softmax over all experts says (Qwen2-MoE).

    Returns:
        weights [tokens, top_k] fp32, ids [tokens, top_k] int32.

    Raises:
        ValueError: *top_k* is not in 1 … experts, or there are more than 1024 experts.
    """
    tokens, experts = logits.shape
    if not 0 < top_k <= experts <= MOST_EXPERTS:
        raise ValueError(f"cannot choose {top_k} of {experts} experts (at most {MOST_EXPERTS})")
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    ids = torch.empty(tokens, top_k, dtype=torch.int32, device=logits.device)
    launch = _launch(architecture(logits.device), experts)
    if tokens:
        _route[(triton.cdiv(tokens, launch.rows),)](
            logits,
            weights,
            ids,
            tokens,
            logits.stride(0),
            EXPERTS=experts,
            BLOCK=power_of_two(experts),
            TOP_K=top_k,
            BLOCK_K=power_of_two(top_k),
            RENORMALIZE=renormalize,
            ROWS=launch.rows,
            num_warps=launch.num_warps,
        )
    return weights, ids


def reference(
    logits: torch.Tensor, top_k: int, renormalize: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """`route` in plain torch."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ids = wide.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = wide.softmax(dim=-1).gather(1, ids)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.float(), ids.int()


def work(tokens: int, experts: int, top_k: int, item_bytes: int) -> Work:
    """Of routing *tokens*: logits read, weights and ids written."""
    return Work(flops=5 * tokens * experts, bytes=tokens * (experts * item_bytes + 8 * top_k))


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """What an executor launches: Mixtral's 8 experts, Qwen3's 128, DeepSeek's 256."""
    pointers = {"p_logits": "*bf16", "p_weights": "*fp32", "p_ids": "*i32"}
    found = []
    for experts, top_k in ((8, 2), (128, 8), (256, 8)):
        launch = _launch(architecture, experts)
        found.append(
            Specialisation(
                name=f"moe_route[{top_k} of {experts}]",
                kernel=_route,
                signature=pointers | {"tokens": "i32", "s_logits": "i32"},
                constants={
                    "EXPERTS": experts,
                    "BLOCK": experts,
                    "TOP_K": top_k,
                    "BLOCK_K": top_k,
                    "RENORMALIZE": True,
                    "ROWS": launch.rows,
                },
                num_warps=launch.num_warps,
                num_stages=launch.num_stages,
                tensor_cores=False,
            )
        )
    return found


def _launch(architecture: int, experts: int) -> Launch:
    shape = next(f"<={most}" for most in (64, 256, 1024) if experts <= most)
    return CONFIGS[architecture, shape]


@triton.jit(do_not_specialize=["tokens"])
def _route(
    p_logits,
    p_weights,
    p_ids,
    tokens,
    s_logits,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
):
    # one program: ROWS tokens; the k-th best is taken out of the row, k times
    o_t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_e = tl.arange(0, BLOCK)
    o_k = tl.arange(0, BLOCK_K)
    m_t = o_t < tokens
    m_e = m_t[:, None] & (o_e < EXPERTS)[None, :]
    row = p_logits + o_t.to(tl.int64)[:, None] * s_logits + o_e[None, :]
    b_x = tl.load(row, mask=m_e, other=-float("inf")).to(tl.float32)
    b_x = tl.where(m_t[:, None], b_x, 0.0)  # rows past the end: no inf - inf
    top = tl.max(b_x, 1)
    total = tl.sum(tl.exp(b_x - top[:, None]), 1)
    b_w = tl.zeros((ROWS, BLOCK_K), tl.float32)
    b_i = tl.zeros((ROWS, BLOCK_K), tl.int32)
    for k in tl.static_range(TOP_K):
        best = tl.max(b_x, 1)
        i_best = tl.argmax(b_x, 1)
        here = (o_k == k)[None, :]
        b_w = tl.where(here, (tl.exp(best - top) / total)[:, None], b_w)
        b_i = tl.where(here, i_best[:, None], b_i)
        b_x = tl.where(o_e[None, :] == i_best[:, None], -float("inf"), b_x)
    if RENORMALIZE:
        b_w = b_w / tl.sum(b_w, 1)[:, None]
    m_k = m_t[:, None] & (o_k < TOP_K)[None, :]
    o_out = o_t[:, None] * TOP_K + o_k[None, :]
    tl.store(p_weights + o_out, b_w, mask=m_k)
    tl.store(p_ids + o_out, b_i, mask=m_k)
