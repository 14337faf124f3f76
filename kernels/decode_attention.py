"""Attention of one new token a sequence over its paged cache, the keys split among programs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot, e4m3_storage, widen
from .launch import Launch, architecture, multiprocessors, power_of_two, with_86
from .paged import attend, attention_work, check_heads, gather
from .work import Work

#: columns: keys an iteration; by the bytes of a key. rows follow from the heads of a group
CONFIGS = with_86(
    {
        (80, "<=256 bytes"): Launch(rows=0, columns=64, num_warps=4, num_stages=3),
        (80, ">256 bytes"): Launch(rows=0, columns=64, num_warps=8, num_stages=2),
        (89, "<=256 bytes"): Launch(rows=0, columns=64, num_warps=4, num_stages=2),
        (89, ">256 bytes"): Launch(rows=0, columns=64, num_warps=8, num_stages=1),
        (90, "<=256 bytes"): Launch(rows=0, columns=64, num_warps=4, num_stages=3),
        (90, ">256 bytes"): Launch(rows=0, columns=64, num_warps=8, num_stages=2),
        (100, "<=256 bytes"): Launch(rows=0, columns=64, num_warps=4, num_stages=3),
        (100, ">256 bytes"): Launch(rows=0, columns=64, num_warps=8, num_stages=2),
    }
)
MOST_SPLITS = 64


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
    splits: int | None = None,
) -> torch.Tensor:
    """Softmax attention of the last token of each sequence over its keys.

    Keys are cut among programs (Flash-Decoding, Dao et al. 2023), which a second kernel joins.
    Launches depend on shapes alone, never on *lengths*: a CUDA graph may be replayed with others.

    Args:
        q: [sequences, heads, head_dim]; heads is a multiple of kv_heads.
        k_cache: [blocks, block_size, kv_heads, head_dim].
        v_cache: as *k_cache*, with the same strides.
        block_table: [sequences, max_blocks] int32.
        lengths: [sequences] int32, keys of each with the token's own; 0 gives zeros.
        scale: of the products of q and k.
        k_scale: what a stored key of 1 stands for (fp8).
        v_scale: likewise for values.
        window: only the last so many keys are seen; 0: all.
        splits: into how many parts the keys of a sequence are cut; None fills the device.

    Returns:
        [sequences, heads, head_dim] in the type of *q*.

    Raises:
        ValueError: shapes or strides that do not fit together.
    """
    check_heads(q, k_cache, v_cache)
    sequences, heads, head_dim = q.shape
    kv_heads = k_cache.shape[2]
    known = architecture(q.device)
    launch = CONFIGS[known, _bucket(head_dim * q.element_size())]
    if splits is None:
        longest = block_table.shape[1] * k_cache.shape[1]
        keys = min(longest, window) if window else longest
        splits = default_splits(q.device, sequences * kv_heads, keys, launch.columns)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    # one split writes its result itself
    shape = (sequences, heads, splits) if splits > 1 else (1, 1, 1)
    partial = torch.empty(*shape, head_dim, dtype=torch.float32, device=q.device)
    logsum = torch.empty(shape, dtype=torch.float32, device=q.device)
    if not sequences:
        return out
    _decode[(kv_heads, sequences, splits)](
        q,
        e4m3_storage(k_cache, known),
        e4m3_storage(v_cache, known),
        block_table,
        lengths,
        partial,
        logsum,
        out,
        scale * k_scale,
        v_scale,
        window,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        block_table.stride(0),
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=k_cache.shape[1],
        SPLIT=splits > 1,
        BLOCK_G=max(16, power_of_two(heads // kv_heads)),
        BLOCK_D=max(16, power_of_two(head_dim)),
        KEYS=launch.columns,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )
    if splits > 1:
        combine_splits(partial, logsum, out, v_scale)
    return out


def combine_splits(
    partial: torch.Tensor, logsum: torch.Tensor, out: torch.Tensor, v_scale: float = 1.0
) -> None:
    """Write the mean over splits, weighed by their sums of exponentials, times *v_scale*.

    Args:
        partial: [sequences, heads, splits, head_dim] fp32, the result of each split.
        logsum: [sequences, heads, splits] fp32, log2 of its sum; -inf for one that saw no key.
        out: [sequences, heads, head_dim], which is written.
        v_scale: what stored values stand for.
    """
    sequences, heads, splits, head_dim = partial.shape
    _combine[(sequences, heads)](
        partial,
        logsum,
        out,
        v_scale,
        splits,
        HEAD_DIM=head_dim,
        BLOCK_S=power_of_two(splits),
        BLOCK_D=power_of_two(head_dim),
        num_warps=_combine_warps(splits, head_dim),
    )


def default_splits(device: torch.device, programs: int, longest: int, keys: int) -> int:
    """How many splits fill *device* twice over.

    Args:
        device: whose multiprocessors are counted.
        programs: of one split.
        longest: keys of the longest sequence that shapes allow.
        keys: of one iteration; a split of *longest* keeps at least four.
    """
    wanted = triton.cdiv(2 * multiprocessors(device), max(programs, 1))
    return max(1, min(wanted, longest // (4 * keys), MOST_SPLITS))


def reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
    splits: int | None = None,
) -> torch.Tensor:
    """`decode_attention` in plain torch; *splits* changes nothing here."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros_like(q)
    for i, tokens in enumerate(lengths.tolist()):
        first = max(0, tokens - window) if window else 0
        k = gather(k_cache, block_table[i], tokens, k_scale, wide)[first:]
        v = gather(v_cache, block_table[i], tokens, v_scale, wide)[first:]
        visible = torch.ones(1, tokens - first, dtype=torch.bool, device=q.device)
        out[i] = attend(q[i : i + 1], k, v, visible, scale)[0].to(q.dtype)
    return out


def work(
    lengths: Sequence[int],
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    window: int = 0,
    item_bytes: int = 2,
    kv_bytes: int = 2,
) -> Work:
    """Of one launch over sequences of these *lengths* in KV tokens."""
    keys = sum(min(n, window) if window else n for n in lengths)
    sizes = (item_bytes, kv_bytes)
    return attention_work(len(lengths), keys, keys, heads, kv_heads, head_dim, sizes)


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Llama's heads on bf16, fp8 and fp32, a head of 256, and the join of splits."""
    fp8 = "*u8" if architecture < 89 else "*fp8e4nv"
    found = []
    for name, wide, cache, head_dim, item_bytes in (
        ("bf16", "*bf16", "*bf16", 128, 2),
        ("bf16, d=64", "*bf16", "*bf16", 64, 2),
        ("bf16, d=256", "*bf16", "*bf16", 256, 2),
        ("fp8", "*bf16", fp8, 128, 2),
        ("fp32", "*fp32", "*fp32", 128, 4),
    ):
        for splits in (1, 8):
            launch = CONFIGS[architecture, _bucket(head_dim * item_bytes)]
            found.append(
                Specialisation(
                    name=f"decode_attention[{name}, {splits} splits]",
                    kernel=_decode,
                    signature=_SIGNATURE | {"p_q": wide, "p_k": cache, "p_v": cache, "p_out": wide},
                    constants={
                        "GROUP": 4,
                        "HEAD_DIM": head_dim,
                        "BLOCK_SIZE": 16,
                        "SPLIT": splits > 1,
                        "BLOCK_G": 16,
                        "BLOCK_D": head_dim,
                        "KEYS": launch.columns,
                    },
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                    tensor_cores=True,
                )
            )
    combine = [
        Specialisation(
            name=f"decode_attention.combine[d={head_dim}]",
            kernel=_combine,
            signature=_COMBINE_SIGNATURE,
            constants={
                "HEAD_DIM": head_dim,
                "BLOCK_S": MOST_SPLITS,
                "BLOCK_D": head_dim,
            },
            num_warps=_combine_warps(MOST_SPLITS, head_dim),
            num_stages=1,
            tensor_cores=False,
        )
        for head_dim in (128, 512)  # 512: MLA's latent
    ]
    return [*found, *combine]


def _combine_warps(splits: int, head_dim: int) -> int:
    return 4 if splits * head_dim <= 8192 else 8


def _bucket(key_bytes: int) -> str:
    return "<=256 bytes" if key_bytes <= 256 else ">256 bytes"


_COMBINE_SIGNATURE = {
    "p_partial": "*fp32",
    "p_logsum": "*fp32",
    "p_out": "*bf16",
    "v_scale": "fp32",
    "splits": "i32",
}
_SIGNATURE = {
    "p_q": "*bf16",
    "p_k": "*bf16",
    "p_v": "*bf16",
    "p_table": "*i32",
    "p_lengths": "*i32",
    "p_partial": "*fp32",
    "p_logsum": "*fp32",
    "p_out": "*bf16",
    "scale": "fp32",
    "v_scale": "fp32",
    "window": "i32",
    "s_q_sequence": "i32",
    "s_q_head": "i32",
    "s_block": "i32",
    "s_token": "i32",
    "s_head": "i32",
    "s_table": "i32",
}


# a batch of other lengths has a wider or narrower table: it must not be compiled anew for that
@triton.jit(
    do_not_specialize=["window", "s_table"],
    do_not_specialize_on_alignment=["p_table", "p_lengths"],
)
def _decode(
    p_q,
    p_k,
    p_v,
    p_table,
    p_lengths,
    p_partial,
    p_logsum,
    p_out,
    scale,
    v_scale,
    window,
    s_q_sequence,
    s_q_head,
    s_block,
    s_token,
    s_head,
    s_table,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr,
):
    # one program: a kv head with its group of heads, a sequence, a split of the keys. Heads come
    # first: programs that run side by side read what lies side by side
    i_h = tl.program_id(0)
    i_b = tl.program_id(1).to(tl.int64)
    i_s = tl.program_id(2)
    splits = tl.num_programs(2)
    length = tl.load(p_lengths + i_b)
    start = tl.where(window > 0, tl.maximum(length - window, 0), 0)
    each = tl.cdiv(tl.cdiv(length - start, KEYS), splits) * KEYS
    start += i_s * each
    o_g = tl.arange(0, BLOCK_G)
    o_d = tl.arange(0, BLOCK_D)
    o_t = tl.arange(0, KEYS)
    m_d = o_d < HEAD_DIM
    m_q = (o_g < GROUP)[:, None] & m_d[None, :]
    heads = i_h * GROUP + o_g
    q = p_q + i_b * s_q_sequence + heads[:, None] * s_q_head + o_d[None, :]
    b_q = tl.load(q, mask=m_q, other=0.0)
    top = tl.full((BLOCK_G,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    acc = tl.zeros((BLOCK_G, BLOCK_D), tl.float32)
    for first in range(start, tl.minimum(start + each, length), KEYS):
        o_k = first + o_t
        m_k = o_k < length
        m_kv = m_k[:, None] & m_d[None, :]
        u_k = o_k.to(tl.uint32)  # never negative: a quotient is a shift
        block = tl.load(p_table + i_b * s_table + u_k // BLOCK_SIZE, mask=m_k, other=0)
        row = block.to(tl.int64) * s_block + (u_k % BLOCK_SIZE) * s_token + i_h * s_head
        o_kv = row[:, None] + o_d[None, :]
        b_k = widen(tl.load(p_k + o_kv, mask=m_kv, other=0.0), b_q.dtype)
        b_v = widen(tl.load(p_v + o_kv, mask=m_kv, other=0.0), b_q.dtype)
        score = dot(b_q, tl.trans(b_k)) * (scale * 1.4426950408889634)  # log2(e): exp2 is native
        score = tl.where(m_k[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        rescale = tl.exp2(top - new_top)
        p = tl.exp2(score - new_top[:, None])
        total = total * rescale + tl.sum(p, 1)
        acc = acc * rescale[:, None] + dot(cast(p, b_v.dtype), b_v)
        top = new_top
    some = total > 0.0
    total = tl.where(some, total, 1.0)
    mean = acc / total[:, None]
    row = i_b * tl.num_programs(0) * GROUP + heads
    if SPLIT:
        # an empty split: its mean of 0 will weigh 2^-inf
        row = row * splits + i_s
        tl.store(p_partial + row[:, None] * HEAD_DIM + o_d[None, :], mean, mask=m_q)
        logsum = tl.where(some, top + tl.log2(total), -float("inf"))
        tl.store(p_logsum + row, logsum, mask=o_g < GROUP)
    else:
        out = p_out + row[:, None] * HEAD_DIM + o_d[None, :]
        tl.store(out, cast(mean * v_scale, p_out.dtype.element_ty), mask=m_q)


@triton.jit(do_not_specialize=["splits"])
def _combine(
    p_partial,
    p_logsum,
    p_out,
    v_scale,
    splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # one program: a sequence and head; splits are weighed by their sums of exponentials
    i_row = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    o_s = tl.arange(0, BLOCK_S)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < HEAD_DIM
    logsum = tl.load(p_logsum + i_row * splits + o_s, mask=o_s < splits, other=-float("inf"))
    top = tl.max(logsum, 0)
    weight = tl.exp2(logsum - tl.where(top > -float("inf"), top, 0.0))  # length 0: all are 0
    m = (logsum > -float("inf"))[:, None] & m_d[None, :]
    o_partial = (i_row * splits + o_s)[:, None] * HEAD_DIM + o_d[None, :]
    mean = tl.sum(tl.load(p_partial + o_partial, mask=m, other=0.0) * weight[:, None], 0)
    mean = mean / tl.maximum(tl.sum(weight, 0), 1e-30) * v_scale
    tl.store(p_out + i_row * HEAD_DIM + o_d, cast(mean, p_out.dtype.element_ty), mask=m_d)
