"""What moves activations: norms, rotary embedding with the KV write, activation, embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from .base import Job, by_tokens
from .bench import Bench

if TYPE_CHECKING:
    import torch

_EPSILON = 1e-5


class Norm:
    """Residual RMSNorm; activations stay warm, as between the kernels of a real step."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By tokens."""
        return _points("norm", 4 * shapes.model.hidden, shapes, grids)

    def build(self, point: Point, bench: Bench) -> Job:
        """x and residual in, both out."""
        norm = bench.ops.add_rms_norm
        hidden = bench.shapes.model.hidden
        x, residual = (bench.randn(point.at[0], hidden) for _ in range(2))
        weight = bench.randn(hidden)
        return Job([lambda: norm(x, residual, weight, _EPSILON)])


class QkNorm:
    """RMSNorm over the heads of queries and keys, where a model has it (Qwen3)."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By tokens; none for other models."""
        if not shapes.model.qk_norm:
            return []
        numbers = 2 * (shapes.heads + shapes.kv_heads) * shapes.model.head_dim
        return _points("qk_norm", numbers, shapes, grids)

    def build(self, point: Point, bench: Bench) -> Job:
        """Both norms in one call; as in the executor, heads lie in the rows of the QKV product."""
        import torch

        s, (tokens,) = bench.shapes, point.at
        norm = bench.ops.rms_norm
        d = s.model.head_dim
        heads = bench.randn(tokens, s.heads + 2 * s.kv_heads, d)
        q, k, _ = torch.split(heads, [s.heads, s.kv_heads, s.kv_heads], 1)
        weight = bench.randn(d)
        return Job([lambda: [norm(x.reshape(-1, d), weight, _EPSILON) for x in (q, k)]])


class Activation:
    """SiLU of the gate times up."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By tokens; none where all feed-forwards are experts."""
        if not shapes.model.ffn:
            return []
        return _points("act", 3 * shapes.model.ffn // shapes.tp, shapes, grids)

    def build(self, point: Point, bench: Bench) -> Job:
        """[tokens, 2 ffn] in, [tokens, ffn] out."""
        activate = bench.ops.silu_mul
        x = bench.randn(point.at[0], 2 * bench.shapes.model.ffn // bench.shapes.tp)
        return Job([lambda: activate(x)])


class RopeWrite:
    """Rotary embedding of queries and keys, and the write of keys and values into the cache."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By tokens."""
        numbers = (2 * shapes.heads + 4 * shapes.kv_heads) * shapes.model.head_dim
        return _points("rope", numbers, shapes, grids)

    def build(self, point: Point, bench: Bench) -> Job:
        """Every token goes to a slot of its own, anywhere in the cache."""
        import torch

        s, (tokens,) = bench.shapes, point.at
        d = s.model.head_dim
        write = bench.ops.rope_kv_write
        heads = bench.randn(tokens, s.heads + 2 * s.kv_heads, d)
        q, k, v = torch.split(heads, [s.heads, s.kv_heads, s.kv_heads], 1)
        blocks = max(64, -(-4 * tokens // s.block_size))
        shape = (blocks, s.block_size, s.kv_heads, d)
        keys, values = (torch.zeros(shape, dtype=bench.kv, device=bench.where) for _ in range(2))
        slots = bench.permutation(blocks * s.block_size)[:tokens].contiguous()
        positions = (slots % s.max_context).to(torch.int32)
        table = rotations(bench, s.max_context, d)
        return Job([lambda: write(q, k, v, positions, table, keys, values, slots)])


class Embedding:
    """Rows of the embedding table, once a step."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By tokens."""
        return _points("embedding", 2 * shapes.model.hidden, shapes, grids)

    def build(self, point: Point, bench: Bench) -> Job:
        """Random token ids."""
        import torch

        s = bench.shapes
        table = bench.kept("embedding", lambda: bench.randn(s.vocab, s.model.hidden))
        ids = bench.integers(s.vocab, point.at[0])
        return Job([lambda: torch.nn.functional.embedding(ids, table)])


def rotations(bench: Bench, positions: int, width: int) -> torch.Tensor:
    """[positions, width] fp32: cosines, then sines."""
    import torch

    def make() -> torch.Tensor:
        steps = torch.arange(0, width, 2, device=bench.where) / width
        angles = torch.arange(positions, device=bench.where)[:, None] * 10000.0**-steps
        return torch.cat((angles.cos(), angles.sin()), -1).float()

    return bench.kept(("rotations", positions, width), make)


def _points(op: str, numbers: int, shapes: Shapes, grids: Grids) -> list[Point]:
    """Points of an op that reads and writes *numbers* activations a token."""
    traffic = numbers * shapes.activation_bytes
    tokens = (*grids.coarse, *grids.fine)
    return [by_tokens(op, t, float(numbers * t), float(traffic * t), grids) for t in tokens]
