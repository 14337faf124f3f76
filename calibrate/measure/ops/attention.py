"""Attention over a paged KV cache: decoding sequences, and chunks after a prefix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench
from .lengths import chunk_mixes, mix_of, parse_mix, skewed

if TYPE_CHECKING:
    import torch


class DecodeAttention:
    """One token each of many sequences, by their number and their mean KV tokens."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """The grid as far as the memory reaches, and uneven lengths at some of it."""
        found = [
            self._point(shapes, b, n, "", (i + j) % 2)
            for i, b in enumerate(grids.decodes)
            for j, n in enumerate(grids.contexts)
            if b * n <= shapes.max_tokens
        ]
        uneven = [p for p in found if p.at[0] > 1 and p.at[1] >= 64]
        for i in range(min(grids.skewed, len(uneven))):
            b, n = uneven[i * len(uneven) // grids.skewed].at
            kind = ("lognormal", "bimodal")[i % 2]
            if 2 * b * n <= shapes.max_tokens:
                found.append(self._point(shapes, b, n, kind, 2))
        return found

    def build(self, point: Point, bench: Bench) -> Job:
        """Rotates over block tables that share no block."""
        decodes, mean = point.at
        lengths = skewed(decodes, mean, point.variant, bench.shapes.max_context)
        attend = bench.ops.decode_attention
        # a kernel may choose its splits by the width of the table; a graph's reaches the longest
        widest = -(-bench.shapes.max_context // bench.shapes.block_size) if bench.on_gpu else 0
        cache = PagedCache(bench, lengths, widest)
        q = bench.randn(decodes, bench.shapes.heads, bench.shapes.model.head_dim)
        scale = bench.shapes.model.head_dim**-0.5

        def call(table: torch.Tensor) -> torch.Tensor:
            k, v, held = cache.keys, cache.values, cache.lengths
            return attend(q, k, v, table, held, scale=scale)

        return Job([partial(call, table) for table in cache.tables])

    def _point(self, s: Shapes, decodes: int, mean: int, variant: str, priority: int) -> Point:
        pairs = decodes * mean
        flops = 4.0 * pairs * s.heads * s.model.head_dim
        traffic = 2.0 * pairs * s.kv_heads * s.model.head_dim * s.kv_bytes
        traffic += 2.0 * decodes * s.heads * s.model.head_dim * s.activation_bytes
        by = ("decodes", "context_tokens")
        return Point("decode_attention", by, (decodes, mean), variant, flops, traffic, priority)


class PrefillAttention:
    """A chunk of a prompt after what is cached of it, by both; and several chunks in a launch."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """Chunks and prefixes as far as the context reaches; mixes carry their chunks' lengths."""
        found = [
            self._point(shapes, ((c, p),), "", (i + j) % 2)
            for i, c in enumerate(grids.chunks)
            for j, p in enumerate(grids.prefixes)
            if c + p <= shapes.max_context
        ]
        mixes = chunk_mixes(grids.mixed, shapes.budget, shapes.max_context)
        return found + [self._point(shapes, mix, mix_of(mix), 2) for mix in mixes]

    def build(self, point: Point, bench: Bench) -> Job:
        """Rotates over block tables that share no block."""
        import torch

        mix = parse_mix(point.variant) if point.variant else [(point.at[0], point.at[1])]
        attend = bench.ops.prefill_attention
        cache = PagedCache(bench, [new + before for new, before in mix])
        ends = [sum(new for new, _ in mix[:i]) for i in range(len(mix) + 1)]
        starts = torch.tensor(ends, dtype=torch.int32, device=bench.where)
        q = bench.randn(ends[-1], bench.shapes.heads, bench.shapes.model.head_dim)
        scale = bench.shapes.model.head_dim**-0.5

        def call(table: torch.Tensor) -> torch.Tensor:
            k, v, held = cache.keys, cache.values, cache.lengths
            return attend(q, k, v, table, starts, held, scale=scale)

        return Job([partial(call, table) for table in cache.tables])

    def _point(
        self, s: Shapes, mix: Sequence[tuple[int, int]], variant: str, priority: int
    ) -> Point:
        width = s.model.head_dim
        pairs = sum(new * before + new * (new + 1) // 2 for new, before in mix)
        keys, rows = sum(new + before for new, before in mix), sum(new for new, _ in mix)
        traffic = 2.0 * keys * s.kv_heads * width * s.kv_bytes
        traffic += 2.0 * rows * s.heads * width * s.activation_bytes
        at = (rows, max(before for _, before in mix))
        flops = 4.0 * pairs * s.heads * width
        return Point(
            "prefill_attention", ("chunk", "prefix"), at, variant, flops, traffic, priority
        )


class PagedCache:
    """Keys and values of one layer in random blocks, and block tables over them.

    Args:
        widest: columns of the tables at least.

    Attributes:
        keys, values: [blocks, block_size, kv_heads, head_dim].
        tables: [sequences, max_blocks] int32 each; enough of them to outgrow the cache of the
            device, none sharing a block with another.
        lengths: [sequences] int32.
    """

    def __init__(self, bench: Bench, lengths: Sequence[int], widest: int = 0) -> None:
        import torch

        s = bench.shapes
        needs = [math.ceil(n / s.block_size) for n in lengths]
        block_bytes = 2 * s.block_size * s.kv_heads * s.model.head_dim * s.kv_bytes
        copies = bench.buffers(sum(needs) * block_bytes)
        blocks = copies * sum(needs)
        shape = (blocks, s.block_size, s.kv_heads, s.model.head_dim)
        self.keys, self.values = (_pool(bench, name, shape) for name in ("keys", "values"))
        ids = bench.permutation(blocks).to(torch.int32)
        self.tables = [
            _table(part, needs, widest) for part in ids.reshape(copies, sum(needs)).unbind()
        ]
        self.lengths = torch.tensor(list(lengths), dtype=torch.int32, device=bench.where)


def _pool(bench: Bench, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The first blocks of a pool that grows to the largest point of its block of points."""
    pools: dict[str, torch.Tensor] = bench.kept(f"pool of {name}", dict)
    if "pool" not in pools or pools["pool"].shape[0] < shape[0]:
        pools.clear()
        pools["pool"] = bench.randn(*shape, dtype=bench.kv)
    return pools["pool"][: shape[0]]


def _table(ids: torch.Tensor, needs: Sequence[int], widest: int) -> torch.Tensor:
    """Rows of block ids, padded with block 0."""
    ends = [sum(needs[:i]) for i in range(len(needs) + 1)]
    table = ids.new_zeros(len(needs), max(widest, *needs))
    for i, (first, last) in enumerate(pairwise(ends)):
        table[i, : last - first] = ids[first:last]
    return table
