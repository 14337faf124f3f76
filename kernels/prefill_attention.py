"""Causal attention of chunks of many sequences, each over its paged prefix and itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .lang import Specialisation, cast, dot, e4m3_storage, inline, widen
from .launch import Launch, architecture, power_of_two, with_86
from .paged import attend, attention_work, check_heads, gather
from .work import Work

#: rows: queries times the heads of a group, columns: keys an iteration; by the bytes of a key.
#: Keys are loaded behind the softmax: with two stages little but one product hides that. The table
#: of blocks takes one stage of the pipeline, so that with five, keys are two iterations ahead.
CONFIGS = with_86(
    {
        (80, "<=128 bytes"): Launch(rows=64, columns=64, num_warps=8, num_stages=2),
        (80, "<=256 bytes"): Launch(rows=64, columns=64, num_warps=8, num_stages=2),
        (80, "<=256 bytes, window or fp32"): Launch(rows=64, columns=64, num_warps=8, num_stages=2),
        (80, "<=512 bytes"): Launch(rows=64, columns=32, num_warps=8, num_stages=2),
        (80, ">512 bytes"): Launch(rows=32, columns=32, num_warps=8, num_stages=1),
        (89, "<=128 bytes"): Launch(rows=128, columns=32, num_warps=8, num_stages=2),
        (89, "<=256 bytes"): Launch(rows=128, columns=32, num_warps=8, num_stages=2),
        (89, "<=256 bytes, window or fp32"): Launch(
            rows=128, columns=32, num_warps=8, num_stages=2
        ),
        (89, "<=512 bytes"): Launch(rows=32, columns=32, num_warps=4, num_stages=1),
        (89, ">512 bytes"): Launch(rows=16, columns=16, num_warps=4, num_stages=1),
        # two programs a multiprocessor
        (90, "<=128 bytes"): Launch(rows=128, columns=64, num_warps=8, num_stages=5),
        # one program, all of its shared memory: a quarter fewer instructions a key than 64 columns
        (90, "<=256 bytes"): Launch(rows=128, columns=128, num_warps=8, num_stages=5),
        (90, "<=256 bytes, window or fp32"): Launch(
            rows=128, columns=64, num_warps=8, num_stages=5
        ),
        (90, "<=512 bytes"): Launch(rows=128, columns=32, num_warps=8, num_stages=5),
        (90, ">512 bytes"): Launch(rows=64, columns=32, num_warps=8, num_stages=1),
        (100, "<=128 bytes"): Launch(rows=128, columns=64, num_warps=8, num_stages=3),
        (100, "<=256 bytes"): Launch(rows=128, columns=64, num_warps=8, num_stages=2),
        (100, "<=256 bytes, window or fp32"): Launch(
            rows=128, columns=64, num_warps=8, num_stages=2
        ),
        (100, "<=512 bytes"): Launch(rows=128, columns=32, num_warps=8, num_stages=2),
        (100, ">512 bytes"): Launch(rows=64, columns=32, num_warps=8, num_stages=1),
    }
)


def prefill_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
) -> torch.Tensor:
    """Softmax attention of the newest tokens of each sequence, each over the keys up to its own.

    A tile holds some queries with all heads of a group, as they read the same keys; keys that all
    its queries see are passed without a mask (FlashAttention-2, Dao 2023).

    Args:
        q: [tokens, heads, head_dim], the chunks one after the other; heads is a multiple of
            kv_heads.
        k_cache: [blocks, block_size, kv_heads, head_dim]; the chunks' own keys are in it already.
        v_cache: as *k_cache*, with the same strides.
        block_table: [sequences, max_blocks] int32.
        query_start: [sequences + 1] int32, where each chunk begins; the last is tokens.
        lengths: [sequences] int32, keys of each sequence with those of its chunk.
        scale: of the products of q and k.
        k_scale: what a stored key of 1 stands for (fp8).
        v_scale: likewise for values.
        window: a token sees itself and the window - 1 before it; 0: all before it.

    Returns:
        [tokens, heads, head_dim] in the type of *q*.

    Raises:
        ValueError: shapes or strides that do not fit together, or a scale that is not positive.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch = CONFIGS[architecture(q.device), _shape(q.shape[-1], q.element_size(), window > 0)]
    attend_chunks(
        (q, k_cache, v_cache, block_table, query_start, lengths),
        out,
        launch,
        scale * k_scale,
        v_scale,
        window,
    )
    return out


def attend_chunks(
    inputs: tuple[torch.Tensor, ...],
    out: torch.Tensor,
    launch: Launch,
    scale: float,
    v_scale: float,
    window: int,
    tree: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Launch the kernel of chunks; `tree_attention` has one with a mask.

    Args:
        inputs: q, caches, block table, starts and lengths, as of `prefill_attention`.
        out: written, like q but contiguous.
        launch: tiles.
        scale: of the products of q and stored keys.
        v_scale: of stored values.
        window: as of `prefill_attention`.
        tree: the mask [tokens, widest chunk] int8, and how deep each token is [tokens] int32.
    """
    q, k_cache, v_cache, block_table, query_start, lengths = inputs
    check_heads(q, k_cache, v_cache)
    tokens, heads, head_dim = q.shape
    kv_heads = k_cache.shape[2]
    group = heads // kv_heads
    if scale <= 0:
        raise ValueError(f"the scale of products ({scale}) is not positive: maxima would be minima")
    if not tokens:
        return
    known = architecture(q.device)
    rows = max(launch.rows, power_of_two(group))
    # chunks begin anywhere: each may need a tile more than its share of all tokens
    tiles = tokens // (rows // group) + lengths.shape[0]
    mask, depth = tree if tree else (lengths, lengths)
    _attend[(tiles, kv_heads)](
        q,
        e4m3_storage(k_cache, known),
        e4m3_storage(v_cache, known),
        out,
        block_table,
        query_start,
        lengths,
        mask,
        depth,
        scale,
        v_scale,
        window,
        lengths.shape[0],
        *q.stride()[:2],
        *k_cache.stride()[:3],
        block_table.stride(0),
        mask.stride(0),
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=k_cache.shape[1],
        TREE=tree is not None,
        WINDOWED=window > 0,
        ROWS=rows,
        BLOCK_D=max(16, power_of_two(head_dim)),
        KEYS=launch.columns,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


def key_bucket(q: torch.Tensor) -> str:
    """What heads as wide as those of *q* are in a table that goes by their bytes alone."""
    return _bucket(q.shape[-1] * q.element_size())


def reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    window: int = 0,
) -> torch.Tensor:
    """`prefill_attention` in plain torch."""
    wide = torch.promote_types(q.dtype, torch.float32)
    starts = query_start.tolist()
    out = torch.zeros_like(q)
    for i, tokens in enumerate(lengths.tolist()):
        chunk = slice(starts[i], starts[i + 1])
        k = gather(k_cache, block_table[i], tokens, k_scale, wide)
        v = gather(v_cache, block_table[i], tokens, v_scale, wide)
        key = torch.arange(tokens, device=q.device)
        query = key[tokens - (chunk.stop - chunk.start) :, None]
        visible = key <= query
        if window:
            visible &= key > query - window
        out[chunk] = attend(q[chunk], k, v, visible, scale).to(q.dtype)
    return out


def work(
    chunks: Sequence[tuple[int, int]],
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    window: int = 0,
    item_bytes: int = 2,
    kv_bytes: int = 2,
) -> Work:
    """Of one launch over *chunks*, each (new tokens, tokens of its prefix)."""
    pairs = sum(visible_pairs(new, prefix, window) for new, prefix in chunks)
    keys = sum(min(prefix, window - 1) + new if window else prefix + new for new, prefix in chunks)
    queries = sum(new for new, _ in chunks)
    sizes = (item_bytes, kv_bytes)
    return attention_work(queries, pairs, keys, heads, kv_heads, head_dim, sizes)


def visible_pairs(new: int, prefix: int, window: int = 0) -> int:
    """How many (query, key) pairs a causal chunk of *new* tokens after *prefix* computes."""
    full = new * prefix + new * (new + 1) // 2
    if not window:
        return full
    # a query at position p sees p + 1 keys; those past the window are a triangle, cut at the chunk
    beyond = max(prefix + new - window, 0)
    before = max(prefix - window, 0)
    return full - (beyond * (beyond + 1) - before * (before + 1)) // 2


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Llama's heads on bf16, fp8 and fp32, heads of 64 and 256, with and without a window."""
    found = forms(architecture) | {"fp32, d=64": ("*fp32", "*fp32", 64, False)}
    return [
        specialisation(architecture, f"prefill_attention[{name}]", CONFIGS, form, tree=False)
        for name, form in found.items()
    ]


def forms(architecture: int) -> dict[str, tuple[str, str, int, bool]]:
    """What is compiled, by name: types of q and of the cache, head dimension, whether a window."""
    fp8 = "*u8" if architecture < 89 else "*fp8e4nv"
    return {
        "bf16": ("*bf16", "*bf16", 128, False),
        "bf16, window": ("*bf16", "*bf16", 128, True),
        "bf16, d=64": ("*bf16", "*bf16", 64, False),
        "bf16, d=256": ("*bf16", "*bf16", 256, True),
        "fp8": ("*bf16", fp8, 128, False),
        "fp8, window": ("*bf16", fp8, 128, True),
        "fp32": ("*fp32", "*fp32", 128, True),
    }


def specialisation(
    architecture: int,
    name: str,
    configs: dict[tuple[int, str], Launch],
    form: tuple[str, str, int, bool],
    *,
    tree: bool,
) -> Specialisation:
    """One compiled *form* of the kernel of chunks, with groups of four heads."""
    wide, cache, head_dim, windowed = form
    item_bytes = 4 if wide == "*fp32" else 2
    shape = _bucket(head_dim * item_bytes) if tree else _shape(head_dim, item_bytes, windowed)
    launch = configs[architecture, shape]
    return Specialisation(
        name=name,
        kernel=_attend,
        signature=_SIGNATURE | {"p_q": wide, "p_k": cache, "p_v": cache, "p_out": wide},
        constants={
            "GROUP": 4,
            "HEAD_DIM": head_dim,
            "BLOCK_SIZE": 16,
            "TREE": tree,
            "WINDOWED": windowed,
            "ROWS": launch.rows,
            "BLOCK_D": head_dim,
            "KEYS": launch.columns,
        },
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        tensor_cores=True,
    )


def _shape(head_dim: int, item_bytes: int, windowed: bool) -> str:
    """The column of `CONFIGS`: masks of a window, and fp32, take registers."""
    key_bytes = head_dim * item_bytes
    if key_bytes <= 128:
        return "<=128 bytes"
    takes = key_bytes <= 256 and (windowed or item_bytes == 4)
    return _bucket(key_bytes) + (", window or fp32" if takes else "")


def _bucket(key_bytes: int) -> str:
    for bound in (256, 512):
        if key_bytes <= bound:
            return f"<={bound} bytes"
    return ">512 bytes"


_SIGNATURE = {
    "p_q": "*bf16",
    "p_k": "*bf16",
    "p_v": "*bf16",
    "p_out": "*bf16",
    "p_table": "*i32",
    "p_start": "*i32",
    "p_lengths": "*i32",
    "p_tree": "*i8",
    "p_depth": "*i32",
    "scale": "fp32",
    "v_scale": "fp32",
    "window": "i32",
    "sequences": "i32",
    "s_q_token": "i32",
    "s_q_head": "i32",
    "s_block": "i32",
    "s_token": "i32",
    "s_head": "i32",
    "s_table": "i32",
    "tree_step": "i32",
}


# a batch of other lengths has a wider or narrower table: it must not be compiled anew for that
@triton.jit(
    do_not_specialize=["window", "sequences", "s_table", "tree_step"],
    do_not_specialize_on_alignment=["p_table", "p_start", "p_lengths", "p_tree", "p_depth"],
)
def _attend(
    p_q,
    p_k,
    p_v,
    p_out,
    p_table,
    p_start,
    p_lengths,
    p_tree,
    p_depth,
    scale,
    v_scale,
    window,
    sequences,
    s_q_token,
    s_q_head,
    s_block,
    s_token,
    s_head,
    s_table,
    tree_step,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TREE: tl.constexpr,
    WINDOWED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr,
):
    # one program: some queries of one chunk with a group of heads; late tiles, which see the most
    # keys, begin first
    QUERIES: tl.constexpr = ROWS // GROUP
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    i_h = tl.program_id(1)
    i_s = _sequence_of(tile, p_start, sequences, QUERIES)
    start = tl.load(p_start + i_s)
    new = tl.load(p_start + i_s + 1) - start
    o_i = (tile - start // QUERIES - i_s) * QUERIES  # its first query in the chunk
    if o_i < new:
        length = tl.load(p_lengths + i_s)
        prefix = length - new
        o_r = tl.arange(0, ROWS)
        o_d = tl.arange(0, BLOCK_D)
        i_q = o_i + o_r // GROUP
        heads = i_h * GROUP + o_r % GROUP
        m_r = (o_r < QUERIES * GROUP) & (i_q < new)
        m_q = m_r[:, None] & (o_d < HEAD_DIM)[None, :]
        tokens = (start + i_q).to(tl.int64)
        q = p_q + tokens[:, None] * s_q_token + heads[:, None] * s_q_head + o_d[None, :]
        b_q = tl.load(q, mask=m_q, other=0.0)
        if TREE:
            # a token's own key lies anywhere in the chunk; its place in the text is its depth
            position = prefix + tl.zeros((ROWS,), tl.int32)
            if WINDOWED:
                position += tl.load(p_depth + tokens, mask=m_r, other=0) - 1
            lowest = prefix - 1
            seen_by_all = prefix
            end = length
        else:
            position = prefix + i_q
            lowest = prefix + o_i
            seen_by_all = lowest + 1
            end = prefix + tl.minimum(o_i + QUERIES, new)
        first = 0
        plain = seen_by_all // KEYS * KEYS
        if WINDOWED:  # the first keys are hidden from the last queries: all are masked
            first = tl.maximum(lowest - window + 1, 0)
            plain = first
        factor = scale * 1.4426950408889634  # log2(e): exp2 is native
        top = tl.full((ROWS,), -float("inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        acc = tl.zeros((ROWS, BLOCK_D), tl.float32)
        table = p_table + i_s.to(tl.int64) * s_table
        k = p_k + i_h * s_head
        v = p_v + i_h * s_head
        tree = p_tree + tokens * tree_step - prefix
        for masked in tl.static_range(2):
            low, high = (plain, end) if masked else (first, plain)
            for o_first in range(low, high, KEYS):
                o_k = o_first + tl.arange(0, KEYS)
                b_k, b_v = _load_keys(
                    k, v, table, o_k, end, s_block, s_token, masked, b_q.dtype, HEAD_DIM,
                    BLOCK_SIZE, BLOCK_D,
                )  # fmt: skip
                score = dot(b_q, tl.trans(b_k))
                if masked:
                    visible = (o_k < end)[None, :] & (o_k[None, :] <= position[:, None])
                    if TREE:
                        own = m_r[:, None] & ((o_k >= prefix) & (o_k < end))[None, :]
                        mask = tl.load(tree[:, None] + o_k[None, :], mask=own, other=0)
                        visible = tl.where((o_k < prefix)[None, :], visible, mask != 0)
                    if WINDOWED:
                        inside = o_k[None, :] > position[:, None] - window
                        if TREE:
                            inside = inside | (o_k >= prefix)[None, :]
                        visible = visible & inside
                    score = tl.where(visible, score, -float("inf"))
                new_top = tl.maximum(top, tl.max(score, 1) * factor)
                base = tl.where(new_top > -float("inf"), new_top, 0.0)  # nothing seen yet
                rescale = tl.exp2(top - base)
                p = tl.exp2(score * factor - base[:, None])  # one instruction before the power
                total = total * rescale + tl.sum(p, 1)
                acc = acc * rescale[:, None] + dot(cast(p, b_v.dtype), b_v)
                top = new_top
        mean = acc / tl.where(total > 0.0, total, 1.0)[:, None] * v_scale
        row = tokens * (tl.num_programs(1) * GROUP) + heads
        out = p_out + row[:, None] * HEAD_DIM + o_d[None, :]
        tl.store(out, cast(mean, p_out.dtype.element_ty), mask=m_q)


@inline
def _sequence_of(tile, p_start, sequences, QUERIES: tl.constexpr):
    """The sequence of a tile: those of sequence s begin at tile start[s] // QUERIES + s."""
    low = 0
    high = sequences
    while high - low > 1:
        middle = (low + high) // 2
        begins = tl.load(p_start + middle) // QUERIES + middle
        low = tl.where(begins <= tile, middle, low)
        high = tl.where(begins <= tile, high, middle)
    return low


@inline
def _load_keys(
    k,
    v,
    table,
    o_k,
    end,
    s_block,
    s_token,
    masked: tl.constexpr,
    dtype: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Keys and values of positions *o_k*, in *dtype*; zeros from *end* on."""
    o_d = tl.arange(0, BLOCK_D)
    m = (o_d < HEAD_DIM)[None, :]
    u_k = o_k.to(tl.uint32)  # never negative: a quotient is a shift
    if masked:
        m = m & (o_k < end)[:, None]
        block = tl.load(table + u_k // BLOCK_SIZE, mask=o_k < end, other=0)
    else:
        block = tl.load(table + u_k // BLOCK_SIZE)
    row = block.to(tl.int64) * s_block + (u_k % BLOCK_SIZE) * s_token
    o_kv = row[:, None] + o_d[None, :]
    b_k = widen(tl.load(k + o_kv, mask=m, other=0.0), dtype)
    return b_k, widen(tl.load(v + o_kv, mask=m, other=0.0), dtype)
