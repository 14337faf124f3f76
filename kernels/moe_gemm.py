"""The experts of a mixture-of-experts layer: two grouped GEMMs around SiLU.

Token–expert pairs are sorted by expert and padded to blocks (`row_groups`), so that a program
multiplies a block of tokens by a tile of one expert's weights. The first GEMM holds a tile of the
gate and one of the up projection and writes silu(gate) · up; the second weighs its rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot
from .launch import ARCHITECTURES, Launch, architecture
from .row_groups import group_rows
from .work import Work

#: tiles of pairs and of output columns, by how many pairs an expert has on average
CONFIGS: dict[tuple[int, str], Launch] = {
    (a, shape): launch
    for a in ARCHITECTURES
    for shape, launch in {
        "few pairs": Launch(rows=16, columns=64, num_warps=4, num_stages=3),
        "many pairs": Launch(
            rows=64, columns=64, num_warps=4, num_stages=2 if a in (86, 89) else 3
        ),
    }.items()
}
#: columns of a tile along the summed dimension
DEPTH = 64


def moe(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
) -> torch.Tensor:
    """Σₖ weights[t, k] · downₑ (silu(gateₑ x[t]) · (upₑ x[t])) with e = ids[t, k].

    Args:
        x: [tokens, hidden].
        gate_up: [experts, 2 · ffn, hidden], gate first.
        down: [experts, hidden, ffn].
        weights: [tokens, k] fp32, of `moe_route.route`.
        ids: [tokens, k] int32; negative: no expert (it adds nothing).

    Returns:
        [tokens, hidden] in the type of *x*.
    """
    tokens, hidden = x.shape
    experts, ffn = down.shape[0], down.shape[2]
    k = ids.shape[1]
    launch = _launch(architecture(x.device), tokens * k, experts)
    rows, group = group_rows(ids.flatten(), experts, launch.rows)
    inner = torch.empty(tokens * k, ffn, dtype=x.dtype, device=x.device)
    # pairs of no expert are in no block: nothing writes their rows
    outer = torch.zeros(tokens * k, hidden, dtype=x.dtype, device=x.device)
    tiles = {
        "BLOCK_M": launch.rows,
        "BLOCK_N": launch.columns,
        "BLOCK_K": DEPTH,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
    if tokens:
        _gate_up[(group.numel(), triton.cdiv(ffn, launch.columns))](
            x, gate_up, inner, rows, group, tokens * k, k, ffn, hidden, x.stride(0), **tiles
        )
        _down[(group.numel(), triton.cdiv(hidden, launch.columns))](
            inner, down, weights, outer, rows, group, tokens * k, hidden, ffn, **tiles
        )
    return outer.view(tokens, k, hidden).sum(1)


def reference(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
) -> torch.Tensor:
    """`moe` in plain torch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = torch.zeros(x.shape, dtype=wide, device=x.device)
    for expert in range(down.shape[0]):
        token, choice = (ids == expert).nonzero(as_tuple=True)
        if token.numel():
            gate, up = (x[token].to(wide) @ gate_up[expert].to(wide).T).chunk(2, dim=-1)
            y = (torch.nn.functional.silu(gate) * up) @ down[expert].to(wide).T
            out.index_add_(0, token, y * weights[token, choice, None].to(wide))
    return out.to(x.dtype)


def work(tokens: int, hidden: int, ffn: int, top_k: int, active: int, item_bytes: int) -> Work:
    """Of one layer whose *tokens* reach *active* distinct experts, each *top_k*."""
    return Work(
        flops=2 * tokens * top_k * 3 * hidden * ffn,
        bytes=item_bytes * (active * 3 * hidden * ffn + 2 * tokens * hidden) + 8 * tokens * top_k,
    )


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Both GEMMs at few and many pairs an expert."""
    found = []
    for shape in ("few pairs", "many pairs"):
        launch = CONFIGS[architecture, shape]
        constants = {"BLOCK_M": launch.rows, "BLOCK_N": launch.columns, "BLOCK_K": DEPTH}
        for name, kernel, signature in (
            ("gate_up", _gate_up, _GATE_UP_SIGNATURE),
            ("down", _down, _DOWN_SIGNATURE),
        ):
            found.append(
                Specialisation(
                    name=f"moe_gemm.{name}[{shape}]",
                    kernel=kernel,
                    signature=signature,
                    constants=constants,
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                    tensor_cores=True,
                )
            )
    return found


def _launch(architecture: int, pairs: int, experts: int) -> Launch:
    return CONFIGS[architecture, "few pairs" if pairs <= 32 * experts else "many pairs"]


_GATE_UP_SIGNATURE = {
    "p_x": "*bf16",
    "p_w": "*bf16",
    "p_y": "*bf16",
    "p_rows": "*i32",
    "p_group": "*i32",
    "pairs": "i32",
    "k": "i32",
    "s_ffn": "i32",
    "s_hidden": "i32",
    "s_x": "i32",
}
_DOWN_SIGNATURE = {
    "p_x": "*bf16",
    "p_w": "*bf16",
    "p_weights": "*fp32",
    "p_y": "*bf16",
    "p_rows": "*i32",
    "p_group": "*i32",
    "pairs": "i32",
    "s_hidden": "i32",
    "s_ffn": "i32",
}


@triton.jit(do_not_specialize=["pairs"])
def _gate_up(
    p_x,
    p_w,
    p_y,
    p_rows,
    p_group,
    pairs,
    k,
    s_ffn,
    s_hidden,
    s_x,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # one program: a block of pairs of one expert, a tile of ffn; s_ffn and s_hidden are the
    # dimensions, which are the strides of y and of the weights as well
    i_g = tl.load(p_group + tl.program_id(0)).to(tl.int64)
    if i_g >= 0:
        pair = tl.load(p_rows + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))
        m_m = pair < pairs
        o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        m_n = o_n < s_ffn
        o_k = tl.arange(0, BLOCK_K)
        x = p_x + (pair // k).to(tl.int64)[:, None] * s_x + o_k[None, :]
        gate_w = p_w + (i_g * 2 * s_ffn + o_n)[None, :] * s_hidden + o_k[:, None]
        up_w = p_w + (i_g * 2 * s_ffn + s_ffn + o_n)[None, :] * s_hidden + o_k[:, None]
        gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for first in range(0, s_hidden, BLOCK_K):
            m_k = first + o_k < s_hidden
            m_w = m_k[:, None] & m_n[None, :]
            b_x = tl.load(x + first, mask=m_m[:, None] & m_k[None, :], other=0.0)
            gate += dot(b_x, tl.load(gate_w + first, mask=m_w, other=0.0))
            up += dot(b_x, tl.load(up_w + first, mask=m_w, other=0.0))
        y = gate / (1.0 + tl.exp(-gate)) * up
        o_y = pair.to(tl.int64)[:, None] * s_ffn + o_n[None, :]
        tl.store(p_y + o_y, cast(y, p_y.dtype.element_ty), mask=m_m[:, None] & m_n[None, :])


@triton.jit(do_not_specialize=["pairs"])
def _down(
    p_x,
    p_w,
    p_weights,
    p_y,
    p_rows,
    p_group,
    pairs,
    s_hidden,
    s_ffn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # one program: a block of pairs of one expert, a tile of hidden
    i_g = tl.load(p_group + tl.program_id(0)).to(tl.int64)
    if i_g >= 0:
        pair = tl.load(p_rows + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M))
        m_m = pair < pairs
        o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        m_n = o_n < s_hidden
        o_k = tl.arange(0, BLOCK_K)
        x = p_x + pair.to(tl.int64)[:, None] * s_ffn + o_k[None, :]
        w = p_w + (i_g * s_hidden + o_n)[None, :] * s_ffn + o_k[:, None]
        y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for first in range(0, s_ffn, BLOCK_K):
            m_k = first + o_k < s_ffn
            b_x = tl.load(x + first, mask=m_m[:, None] & m_k[None, :], other=0.0)
            b_w = tl.load(w + first, mask=m_k[:, None] & m_n[None, :], other=0.0)
            y += dot(b_x, b_w)
        y *= tl.load(p_weights + pair, mask=m_m, other=0.0)[:, None]
        o_y = pair.to(tl.int64)[:, None] * s_hidden + o_n[None, :]
        tl.store(p_y + o_y, cast(y, p_y.dtype.element_ty), mask=m_m[:, None] & m_n[None, :])
