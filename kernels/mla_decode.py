"""Decode attention of DeepSeek's MLA on a paged cache of latents, split over the keys.

The cache holds for every token its compressed latent [kv_lora] and, behind it, the rotated key
[rope] that all heads share. Queries come with the key up-projection already absorbed; the result is
attention over latents, which the caller takes through the value up-projection (DeepSeek-V2,
arXiv:2405.04434, §2.1). All heads read the same keys, so a program takes a block of heads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .decode_attention import combine_splits, default_splits
from .lang import Specialisation, cast, dot
from .launch import Launch, architecture, power_of_two, with_86
from .work import Work

#: rows: heads a program, columns: keys an iteration; by the number of heads
CONFIGS = with_86(
    {
        (80, "<=16 heads"): Launch(rows=16, columns=64, num_warps=8, num_stages=2),
        (80, ">16 heads"): Launch(rows=32, columns=64, num_warps=8, num_stages=2),
        (89, "<=16 heads"): Launch(rows=16, columns=64, num_warps=8, num_stages=2),
        (89, ">16 heads"): Launch(rows=16, columns=64, num_warps=8, num_stages=2),
        (90, "<=16 heads"): Launch(rows=16, columns=64, num_warps=8, num_stages=2),
        (90, ">16 heads"): Launch(rows=32, columns=64, num_warps=8, num_stages=2),
        (100, "<=16 heads"): Launch(rows=16, columns=64, num_warps=8, num_stages=2),
        (100, ">16 heads"): Launch(rows=64, columns=32, num_warps=8, num_stages=2),
    }
)


def mla_decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    kv_lora: int,
    splits: int | None = None,
) -> torch.Tensor:
    """One query a sequence against its cached latents.

    Args:
        q: [sequences, heads, kv_lora + rope].
        cache: [blocks, block_size, kv_lora + rope].
        block_table: [sequences, max_blocks] int32.
        lengths: [sequences] int32, cached tokens of each; 0 gives zeros.
        scale: of the scores, before the softmax.
        kv_lora: width of the latent; it and rope are powers of two, at least 16.
        splits: into how many parts the keys of a sequence are cut; None fills the device.

    Returns:
        [sequences, heads, kv_lora] in the type of *q*.

    Raises:
        ValueError: a width that is no power of two.
    """
    sequences, heads, width = q.shape
    rope = width - kv_lora
    check_widths(kv_lora, rope)
    launch = _launch(architecture(q.device), heads)
    head_blocks = triton.cdiv(heads, launch.rows)
    if splits is None:
        longest = block_table.shape[1] * cache.shape[1]
        splits = default_splits(q.device, sequences * head_blocks, longest, launch.columns)
    out = torch.empty(sequences, heads, kv_lora, dtype=q.dtype, device=q.device)
    shape = (sequences, heads, splits)
    partial = torch.empty(*shape, kv_lora, dtype=torch.float32, device=q.device)
    logsum = torch.empty(shape, dtype=torch.float32, device=q.device)
    if sequences:
        _decode[(sequences, head_blocks, splits)](
            q,
            cache,
            block_table,
            lengths,
            partial,
            logsum,
            scale,
            heads,
            q.stride(0),
            q.stride(1),
            cache.stride(0),
            cache.stride(1),
            block_table.stride(0),
            SPLITS=splits,
            BLOCK_SIZE=cache.shape[1],
            KV_LORA=kv_lora,
            ROPE=rope,
            HEADS=launch.rows,
            KEYS=launch.columns,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        combine_splits(partial, logsum, out)
    return out


def reference(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    kv_lora: int,
    splits: int | None = None,
) -> torch.Tensor:
    """`mla_decode` in plain torch; *splits* changes nothing but rounding, so nothing here."""
    del splits
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros(*q.shape[:2], kv_lora, dtype=q.dtype, device=q.device)
    for i, length in enumerate(lengths.tolist()):
        if length:
            keys = latents(cache, block_table[i], length).to(wide)
            weights = (q[i].to(wide) @ keys.T * scale).softmax(dim=-1)
            out[i] = (weights @ keys[:, :kv_lora]).to(q.dtype)
    return out


def latents(cache: torch.Tensor, blocks: torch.Tensor, length: int) -> torch.Tensor:
    """The first *length* rows that the int32 *blocks* of one sequence hold: [length, width]."""
    used = triton.cdiv(length, cache.shape[1])
    return cache[blocks[:used].long()].flatten(0, 1)[:length]


def check_widths(kv_lora: int, rope: int) -> None:
    """Raise ValueError unless both widths are powers of two from 16 on."""
    for name, width in (("kv_lora", kv_lora), ("rope", rope)):
        if width < 16 or width != power_of_two(width):
            raise ValueError(f"{name} ({width}) is not a power of two of at least 16")


def work(lengths: list[int], heads: int, kv_lora: int, rope: int, item_bytes: int) -> Work:
    """Of one launch over sequences of these cached *lengths*."""
    keys, rows = sum(lengths), len(lengths) * heads
    return Work(
        flops=2 * heads * keys * (2 * kv_lora + rope),
        bytes=item_bytes * (keys * (kv_lora + rope) + rows * (2 * kv_lora + rope)),
    )


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """DeepSeek-V3: latent 512, rope 64, on 16 and 128 heads a GPU, block size 64."""
    found = []
    for heads in (16, 128):
        launch = _launch(architecture, heads)
        found.append(
            Specialisation(
                name=f"mla_decode[{heads} heads]",
                kernel=_decode,
                signature=_SIGNATURE,
                constants={
                    "SPLITS": 8,
                    "BLOCK_SIZE": 64,
                    "KV_LORA": 512,
                    "ROPE": 64,
                    "HEADS": launch.rows,
                    "KEYS": launch.columns,
                },
                num_warps=launch.num_warps,
                num_stages=launch.num_stages,
                tensor_cores=True,
            )
        )
    return found


def _launch(architecture: int, heads: int) -> Launch:
    return CONFIGS[architecture, "<=16 heads" if heads <= 16 else ">16 heads"]


_SIGNATURE = {
    "p_q": "*bf16",
    "p_cache": "*bf16",
    "p_table": "*i32",
    "p_lengths": "*i32",
    "p_partial": "*fp32",
    "p_logsum": "*fp32",
    "scale": "fp32",
    "heads": "i32",
    "s_q_sequence": "i32",
    "s_q_head": "i32",
    "s_block": "i32",
    "s_token": "i32",
    "s_table": "i32",
}


@triton.jit
def _decode(
    p_q,
    p_cache,
    p_table,
    p_lengths,
    p_partial,
    p_logsum,
    scale,
    heads,
    s_q_sequence,
    s_q_head,
    s_block,
    s_token,
    s_table,
    SPLITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KV_LORA: tl.constexpr,
    ROPE: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
):
    # one program: a sequence, a block of heads, a split of its keys
    i_b = tl.program_id(0)
    i_s = tl.program_id(2)
    length = tl.load(p_lengths + i_b)
    each = tl.cdiv(tl.cdiv(length, KEYS), SPLITS) * KEYS
    o_h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    o_c = tl.arange(0, KV_LORA)
    o_r = KV_LORA + tl.arange(0, ROPE)
    o_t = tl.arange(0, KEYS)
    m_h = o_h < heads
    q = p_q + i_b.to(tl.int64) * s_q_sequence + o_h[:, None] * s_q_head
    b_qc = tl.load(q + o_c[None, :], mask=m_h[:, None], other=0.0)
    b_qr = tl.load(q + o_r[None, :], mask=m_h[:, None], other=0.0)
    top = tl.full((HEADS,), -float("inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    acc = tl.zeros((HEADS, KV_LORA), tl.float32)
    for first in range(i_s * each, tl.minimum(i_s * each + each, length), KEYS):
        o_k = first + o_t
        m_k = o_k < length
        block = tl.load(p_table + i_b * s_table + o_k // BLOCK_SIZE, mask=m_k, other=0)
        row = p_cache + block.to(tl.int64) * s_block + (o_k % BLOCK_SIZE) * s_token
        b_c = tl.load(row[:, None] + o_c[None, :], mask=m_k[:, None], other=0.0)
        b_r = tl.load(row[:, None] + o_r[None, :], mask=m_k[:, None], other=0.0)
        score = (dot(b_qc, tl.trans(b_c)) + dot(b_qr, tl.trans(b_r))) * (scale * 1.4426950408889634)
        score = tl.where(m_k[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        rescale = tl.exp2(top - new_top)
        p = tl.exp2(score - new_top[:, None])
        total = total * rescale + tl.sum(p, 1)
        acc = acc * rescale[:, None] + dot(cast(p, b_c.dtype), b_c)
        top = new_top
    # an empty split: its mean 0 weighs 2^-inf
    some = total > 0.0
    total = tl.where(some, total, 1.0)
    o_out = (i_b.to(tl.int64) * heads + o_h) * SPLITS + i_s
    mean = acc / total[:, None]
    tl.store(p_partial + o_out[:, None] * KV_LORA + o_c[None, :], mean, mask=m_h[:, None])
    logsum = tl.where(some, top + tl.log2(total), -float("inf"))
    tl.store(p_logsum + o_out, logsum, mask=m_h)
