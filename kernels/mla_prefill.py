"""Prefill attention of DeepSeek's MLA on a paged cache of latents: chunks over their prefixes.

Like `mla_decode`, on latents: the chunk's own rows are in the cache before the launch. All heads
share the keys, so a program's rows are (token, head) pairs of one sequence, whatever the number of
heads, and no row of a tile is wasted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot
from .launch import Launch, architecture, power_of_two, same_everywhere
from .mla_decode import check_widths, latents
from .work import Work

#: rows: (token, head) pairs a program, columns: keys an iteration
CONFIGS = same_everywhere({"": Launch(rows=32, columns=32, num_warps=8, num_stages=2)})


def mla_prefill(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    kv_lora: int,
) -> torch.Tensor:
    """Causal attention of each sequence's chunk on all its cached latents.

    Args:
        q: [tokens, heads, kv_lora + rope], the chunks one after another.
        cache: [blocks, block_size, kv_lora + rope].
        block_table: [sequences, max_blocks] int32.
        query_start: [sequences + 1] int32, where each chunk begins in *q*.
        lengths: [sequences] int32, cached tokens, the chunk's own among them.
        scale: of the scores, before the softmax.
        kv_lora: width of the latent; it and rope are powers of two, at least 16.

    Returns:
        [tokens, heads, kv_lora] in the type of *q*.

    Raises:
        ValueError: a width that is no power of two.
    """
    tokens, heads, width = q.shape
    sequences = lengths.numel()
    rope = width - kv_lora
    check_widths(kv_lora, rope)
    launch = CONFIGS[architecture(q.device), ""]
    out = torch.empty(tokens, heads, kv_lora, dtype=q.dtype, device=q.device)
    # a tile more a sequence than all pairs fill: which is whose is known on the device alone
    tiles = tokens * heads // launch.rows + min(sequences, tokens)
    if tokens:
        _prefill[(tiles,)](
            q,
            cache,
            block_table,
            query_start,
            lengths,
            out,
            scale,
            sequences,
            heads,
            q.stride(0),
            q.stride(1),
            cache.stride(0),
            cache.stride(1),
            block_table.stride(0),
            SEQUENCES=power_of_two(sequences),
            BLOCK_SIZE=cache.shape[1],
            KV_LORA=kv_lora,
            ROPE=rope,
            ROWS=launch.rows,
            KEYS=launch.columns,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


def reference(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    kv_lora: int,
) -> torch.Tensor:
    """`mla_prefill` in plain torch."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.empty(*q.shape[:2], kv_lora, dtype=q.dtype, device=q.device)
    starts = query_start.tolist()
    for i, length in enumerate(lengths.tolist()):
        first, end = starts[i], starts[i + 1]
        keys = latents(cache, block_table[i], length).to(wide)
        position = torch.arange(length - (end - first), length, device=q.device)
        hidden = torch.arange(length, device=q.device)[None, :] > position[:, None]
        score = torch.einsum("thd,kd->thk", q[first:end].to(wide), keys) * scale
        weights = score.masked_fill(hidden[:, None, :], -torch.inf).softmax(dim=-1)
        out[first:end] = (weights @ keys[:, :kv_lora]).to(q.dtype)
    return out


def work(chunk: int, prefix: int, heads: int, kv_lora: int, rope: int, item_bytes: int) -> Work:
    """Of a *chunk* of tokens over a cached *prefix*; a batch is the sum over its chunks."""
    pairs = chunk * prefix + chunk * (chunk + 1) // 2
    keys = prefix + chunk
    return Work(
        flops=2 * heads * pairs * (2 * kv_lora + rope),
        bytes=item_bytes * (keys * (kv_lora + rope) + chunk * heads * (2 * kv_lora + rope)),
    )


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """DeepSeek-V3: latent 512, rope 64, block size 64."""
    launch = CONFIGS[architecture, ""]
    return [
        Specialisation(
            name="mla_prefill",
            kernel=_prefill,
            signature=_SIGNATURE,
            constants={
                "SEQUENCES": 16,
                "BLOCK_SIZE": 64,
                "KV_LORA": 512,
                "ROPE": 64,
                "ROWS": launch.rows,
                "KEYS": launch.columns,
            },
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            tensor_cores=True,
        )
    ]


_SIGNATURE = {
    "p_q": "*bf16",
    "p_cache": "*bf16",
    "p_table": "*i32",
    "p_start": "*i32",
    "p_lengths": "*i32",
    "p_out": "*bf16",
    "scale": "fp32",
    "sequences": "i32",
    "heads": "i32",
    "s_q_token": "i32",
    "s_q_head": "i32",
    "s_block": "i32",
    "s_token": "i32",
    "s_table": "i32",
}


@triton.jit(do_not_specialize=["sequences"])
def _prefill(
    p_q,
    p_cache,
    p_table,
    p_start,
    p_lengths,
    p_out,
    scale,
    sequences,
    heads,
    s_q_token,
    s_q_head,
    s_block,
    s_token,
    s_table,
    SEQUENCES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KV_LORA: tl.constexpr,
    ROPE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    # one program: a tile of (token, head) pairs; first it finds whose, counting tiles a sequence
    o_b = tl.arange(0, SEQUENCES)
    m_b = o_b < sequences
    starts = tl.load(p_start + o_b, mask=m_b, other=0)
    counts = tl.load(p_start + 1 + o_b, mask=m_b, other=0) - starts
    tiles = tl.cdiv(counts * heads, ROWS)
    before = tl.cumsum(tiles, 0) <= tl.program_id(0)
    i_b = tl.sum((before & m_b).to(tl.int32), 0)
    if i_b < sequences:
        tile = tl.program_id(0) - tl.sum(tl.where(before & m_b, tiles, 0), 0)
        start = tl.load(p_start + i_b)
        count = tl.load(p_start + i_b + 1) - start
        length = tl.load(p_lengths + i_b)
        o_m = tile * ROWS + tl.arange(0, ROWS)
        token = o_m // heads
        head = o_m % heads
        m_m = token < count
        position = length - count + token
        # the last key that any row of the tile sees
        end = tl.minimum(length - count + (tile * ROWS + ROWS - 1) // heads + 1, length)
        o_c = tl.arange(0, KV_LORA)
        o_r = KV_LORA + tl.arange(0, ROPE)
        o_t = tl.arange(0, KEYS)
        q = p_q + ((start + token).to(tl.int64) * s_q_token + head * s_q_head)[:, None]
        b_qc = tl.load(q + o_c[None, :], mask=m_m[:, None], other=0.0)
        b_qr = tl.load(q + o_r[None, :], mask=m_m[:, None], other=0.0)
        top = tl.full((ROWS,), -float("inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        acc = tl.zeros((ROWS, KV_LORA), tl.float32)
        for first in range(0, end, KEYS):
            o_k = first + o_t
            m_k = o_k < end
            block = tl.load(p_table + i_b * s_table + o_k // BLOCK_SIZE, mask=m_k, other=0)
            row = p_cache + block.to(tl.int64) * s_block + (o_k % BLOCK_SIZE) * s_token
            b_c = tl.load(row[:, None] + o_c[None, :], mask=m_k[:, None], other=0.0)
            b_r = tl.load(row[:, None] + o_r[None, :], mask=m_k[:, None], other=0.0)
            score = dot(b_qc, tl.trans(b_c)) + dot(b_qr, tl.trans(b_r))
            seen = m_k[None, :] & (o_k[None, :] <= position[:, None])
            score = tl.where(seen, score * (scale * 1.4426950408889634), -float("inf"))
            # key 0 is seen by every row, so the maximum is finite from the first iteration on
            new_top = tl.maximum(top, tl.max(score, 1))
            rescale = tl.exp2(top - new_top)
            p = tl.exp2(score - new_top[:, None])
            total = total * rescale + tl.sum(p, 1)
            acc = acc * rescale[:, None] + dot(cast(p, b_c.dtype), b_c)
            top = new_top
        o_out = ((start + token).to(tl.int64) * heads + head)[:, None] * KV_LORA + o_c[None, :]
        b_out = cast(acc / total[:, None], p_out.dtype.element_ty)
        tl.store(p_out + o_out, b_out, mask=m_m[:, None])
