"""Rotary position embedding of q and k, and the write of k and v into their slots of the cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .fp8_kv import E4M3, to_e4m3
from .lang import Specialisation, cast, e4m3_storage, inline, saturate
from .launch import Launch, architecture, power_of_two, same_everywhere
from .work import Work

#: rows: heads a program takes of one token
CONFIGS = same_everywhere({"any": Launch(rows=8, columns=0, num_warps=2, num_stages=1)})


def rope_kv_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> torch.Tensor:
    """Rotate q and k by their positions; write k and v, over their scales, into the cache.

    Halves of a head are rotated against each other (the order of GPT-NeoX and Llama). Into a cache
    of e4m3, values are rounded to the nearest and clamped to ±448.

    Args:
        q: [tokens, heads, head_dim].
        k: [tokens, kv_heads, head_dim].
        v: as *k*.
        positions: [tokens] int32.
        cos_sin: [max_position, head_dim] fp32, cosines in the first half and sines in the second.
        k_cache: [blocks, block_size, kv_heads, head_dim], written.
        v_cache: as *k_cache*.
        slots: [tokens] int64, block · block_size + offset, all different; -1 writes nowhere.
        k_scale: what a stored key of 1 stands for.
        v_scale: likewise for values.

    Returns:
        The rotated q, [tokens, heads, head_dim].
    """
    tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    known = architecture(q.device)
    launch = CONFIGS[known, "any"]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if tokens:
        programs = triton.cdiv(heads, launch.rows) + triton.cdiv(kv_heads, launch.rows)
        _rope_kv_write[(tokens, programs)](
            q,
            k,
            v,
            positions,
            cos_sin,
            out,
            e4m3_storage(k_cache, known),
            e4m3_storage(v_cache, known),
            slots,
            1.0 / k_scale,
            1.0 / v_scale,
            *q.stride()[:2],
            *k.stride()[:2],
            *v.stride()[:2],
            *k_cache.stride()[:3],
            *v_cache.stride()[:3],
            HEADS=heads,
            KV_HEADS=kv_heads,
            HALF=head_dim // 2,
            BLOCK_SIZE=k_cache.shape[1],
            FP8=k_cache.dtype == E4M3,
            BLOCK_H=launch.rows,
            BLOCK_E=power_of_two(head_dim // 2),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> torch.Tensor:
    """`rope_kv_write` in plain torch."""
    wide = torch.promote_types(q.dtype, torch.float32)
    cos, sin = cos_sin[positions.long()].to(wide).unsqueeze(1).chunk(2, -1)
    kept = slots >= 0
    _store(k_cache, slots[kept], _rotate(k[kept].to(wide), cos[kept], sin[kept]), k_scale)
    _store(v_cache, slots[kept], v[kept].to(wide), v_scale)
    return _rotate(q.to(wide), cos, sin).to(q.dtype)


def work(
    tokens: int, heads: int, kv_heads: int, head_dim: int, item_bytes: int = 2, kv_bytes: int = 2
) -> Work:
    """Of one launch; a table row of cosines and sines is read once a token."""
    read = tokens * head_dim * (item_bytes * (heads + 2 * kv_heads) + 4) + 12 * tokens
    written = tokens * head_dim * (item_bytes * heads + 2 * kv_bytes * kv_heads)
    return Work(flops=3 * tokens * (heads + kv_heads) * head_dim, bytes=read + written)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Llama's heads, into caches of bf16 and of e4m3."""
    launch = CONFIGS[architecture, "any"]
    fp8 = "*u8" if architecture < 89 else "*fp8e4nv"
    return [
        Specialisation(
            name=f"rope_kv_write[{name}]",
            kernel=_rope_kv_write,
            signature=_SIGNATURE | {"p_k_cache": cache, "p_v_cache": cache},
            constants={
                "HEADS": 32,
                "KV_HEADS": 8,
                "HALF": 64,
                "BLOCK_SIZE": 16,
                "FP8": name == "fp8",
                "BLOCK_H": launch.rows,
                "BLOCK_E": 64,
            },
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=False,
        )
        for name, cache in (("bf16", "*bf16"), ("fp8", fp8))
    ]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _store(cache: torch.Tensor, slots: torch.Tensor, x: torch.Tensor, scale: float) -> None:
    block, offset = slots // cache.shape[1], slots % cache.shape[1]
    if cache.dtype == E4M3:
        bits = to_e4m3(x * (1.0 / scale)).view(torch.uint8)
        cache.view(torch.uint8)[block, offset] = bits
    else:
        cache[block, offset] = (x * (1.0 / scale)).to(cache.dtype)


_SIGNATURE = {
    "p_q": "*bf16",
    "p_k": "*bf16",
    "p_v": "*bf16",
    "p_positions": "*i32",
    "p_cos_sin": "*fp32",
    "p_out": "*bf16",
    "p_k_cache": "*bf16",
    "p_v_cache": "*bf16",
    "p_slots": "*i64",
    "k_inverse": "fp32",
    "v_inverse": "fp32",
    "s_q_token": "i32",
    "s_q_head": "i32",
    "s_k_token": "i32",
    "s_k_head": "i32",
    "s_v_token": "i32",
    "s_v_head": "i32",
    "s_kc_block": "i32",
    "s_kc_token": "i32",
    "s_kc_head": "i32",
    "s_vc_block": "i32",
    "s_vc_token": "i32",
    "s_vc_head": "i32",
}


@triton.jit
def _rope_kv_write(
    p_q,
    p_k,
    p_v,
    p_positions,
    p_cos_sin,
    p_out,
    p_k_cache,
    p_v_cache,
    p_slots,
    k_inverse,
    v_inverse,
    s_q_token,
    s_q_head,
    s_k_token,
    s_k_head,
    s_v_token,
    s_v_head,
    s_kc_block,
    s_kc_token,
    s_kc_head,
    s_vc_block,
    s_vc_token,
    s_vc_head,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # one program: a block of heads of one token, of q first, then of k with v
    Q_PROGRAMS: tl.constexpr = (HEADS + BLOCK_H - 1) // BLOCK_H
    i_t = tl.program_id(0).to(tl.int64)
    i_p = tl.program_id(1)
    o_e = tl.arange(0, BLOCK_E)
    m_e = o_e < HALF
    table = p_cos_sin + tl.load(p_positions + i_t).to(tl.int64) * (2 * HALF) + o_e
    cos = tl.load(table, mask=m_e, other=0.0)[None, :]
    sin = tl.load(table + HALF, mask=m_e, other=0.0)[None, :]
    if i_p < Q_PROGRAMS:
        o_h = (i_p * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
        m = (o_h < HEADS) & m_e[None, :]
        q = p_q + i_t * s_q_token + o_h * s_q_head + o_e[None, :]
        a, b = _rotated(q, cos, sin, m, HALF)
        out = p_out + (i_t * HEADS + o_h) * (2 * HALF) + o_e[None, :]
        tl.store(out, cast(a, p_out.dtype.element_ty), mask=m)
        tl.store(out + HALF, cast(b, p_out.dtype.element_ty), mask=m)
    else:
        slot = tl.load(p_slots + i_t).to(tl.int64)
        if slot >= 0:
            block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
            o_h = ((i_p - Q_PROGRAMS) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
            m = (o_h < KV_HEADS) & m_e[None, :]
            k = p_k + i_t * s_k_token + o_h * s_k_head + o_e[None, :]
            a, b = _rotated(k, cos, sin, m, HALF)
            kc = p_k_cache + block * s_kc_block + offset * s_kc_token
            kc += o_h * s_kc_head + o_e[None, :]
            _store_scaled(kc, a, k_inverse, m, FP8)
            _store_scaled(kc + HALF, b, k_inverse, m, FP8)
            v = p_v + i_t * s_v_token + o_h * s_v_head + o_e[None, :]
            vc = p_v_cache + block * s_vc_block + offset * s_vc_token
            vc += o_h * s_vc_head + o_e[None, :]
            for half in tl.static_range(2):
                b_v = tl.load(v + half * HALF, mask=m, other=0.0).to(tl.float32)
                _store_scaled(vc + half * HALF, b_v, v_inverse, m, FP8)


@inline
def _rotated(x, cos, sin, m, HALF: tl.constexpr):
    a = tl.load(x, mask=m, other=0.0).to(tl.float32)
    b = tl.load(x + HALF, mask=m, other=0.0).to(tl.float32)
    return a * cos - b * sin, b * cos + a * sin


@inline
def _store_scaled(p_cache, x, inverse, m, FP8: tl.constexpr):
    x = x * inverse
    if FP8:
        x = saturate(x)
    tl.store(p_cache, cast(x, p_cache.dtype.element_ty), mask=m)
