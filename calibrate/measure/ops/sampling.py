"""What happens to logits: greedy choice, top-k and top-p, and the bitmask of structured output."""

from __future__ import annotations

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench

_LOGIT_BYTES = 4


class Sampling:
    """The next token of every row, greedy; and "top_p": temperature, top-k 50 and top-p 0.9."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By sequences: greedy first, the other kind after everything that each step has."""
        rows = [n for n in grids.coarse if n <= shapes.max_seqs]
        greedy = [_point("sampler", n, shapes, 1, 0) for n in rows]
        return greedy + [_point("sampler_top_p", n, shapes, 4, 2) for n in rows]

    def build(self, point: Point, bench: Bench) -> Job:
        """Logits of a normal distribution."""
        import torch

        (rows,) = point.at
        logits = bench.randn(rows, bench.shapes.vocab)
        if point.op == "sampler":
            greedy = bench.ops.greedy
            return Job([lambda: greedy(logits)])
        sample = bench.kernel("sampling", "sample")
        warm = torch.full((rows,), 0.8, device=bench.where)
        top_p = torch.full((rows,), 0.9, device=bench.where)
        top_k = torch.full((rows,), 50, dtype=torch.int32, device=bench.where)
        draws = bench.uniform(rows)
        return Job([lambda: sample(logits, warm, top_k, top_p, draws)])


class Bitmask:
    """Masking the logits of rows whose output has a grammar."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By sequences that have a grammar."""
        rows = [n for n in grids.coarse if n <= shapes.max_seqs]
        return [_point("bitmask", n, shapes, 2, 2) for n in rows]

    def build(self, point: Point, bench: Bench) -> Job:
        """Half of the tokens are allowed, at random."""
        import torch

        (rows,), vocab = point.at, bench.shapes.vocab
        apply = bench.kernel("token_bitmask", "apply_bitmask")
        logits = bench.randn(rows, vocab)
        words = (bench.integers(1 << 32, rows, -(-vocab // 32)) - (1 << 31)).to(torch.int32)
        index = torch.arange(rows, dtype=torch.int32, device=bench.where)
        return Job([lambda: apply(logits, words, index)])


def _point(op: str, rows: int, shapes: Shapes, passes: int, priority: int) -> Point:
    numbers = float(rows * shapes.vocab * passes)
    return Point(op, ("sequences",), (rows,), "", numbers, numbers * _LOGIT_BYTES, priority)
