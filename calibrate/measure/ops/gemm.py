"""Matrix products: cuBLAS through torch, or the quantised ones of ``kernels/``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..grids import Grids
from ..point import Point
from ..shapes import HEAD, Shapes
from .base import Job
from .bench import Bench

if TYPE_CHECKING:
    import torch

_GROUP = 128  # weights that share a scale in int4


class Gemms:
    """The dense products of the layers, by tokens, and the LM head, by sequences."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """Every count of tokens of the grid for every product."""
        tokens = (*grids.coarse, *grids.fine)
        found = [_point(shapes, op, t, grids) for op in shapes.dense_gemms() for t in tokens]
        rows = [n for n in grids.coarse if n <= shapes.max_seqs]
        return found + [_point(shapes, HEAD, n, grids) for n in rows]

    def build(self, point: Point, bench: Bench) -> Job:
        """One product with each of the rotating weights."""
        import torch

        shapes, (tokens,) = bench.shapes, point.at
        inputs, outputs = shapes.gemm(point.op)
        x = bench.randn(tokens, inputs)
        form = "bf16" if shapes.weight_bytes(point.op) in (2.0, 4.0) else shapes.dtype
        if form == "fp8":
            return Job(_fp8(bench, x, inputs, outputs))
        if form == "int4":
            return Job(_int4(bench, x, inputs, outputs))
        size = inputs * outputs * shapes.activation_bytes
        weights = bench.kept(
            point.op, lambda: bench.rotating(size, lambda: bench.randn(outputs, inputs))
        )
        return Job([partial(torch.nn.functional.linear, x, w) for w in weights])


def _point(shapes: Shapes, op: str, rows: int, grids: Grids) -> Point:
    inputs, outputs = shapes.gemm(op)
    traffic = inputs * outputs * shapes.weight_bytes(op)
    traffic += rows * (inputs + outputs) * shapes.activation_bytes
    axis = "sequences" if op == HEAD else "tokens"
    priority = 0 if rows in grids.coarse else 1
    return Point(op, (axis,), (rows,), "", 2.0 * rows * inputs * outputs, traffic, priority)


def _fp8(bench: Bench, x: torch.Tensor, inputs: int, outputs: int) -> list[Callable[[], Any]]:
    import torch

    product = bench.kernel("fp8_gemm", "fp8_gemm")
    one = torch.ones((), device=bench.where)
    x8 = (x / 8).to(torch.float8_e4m3fn)
    weights = bench.kept(
        ("fp8", inputs, outputs),
        lambda: bench.rotating(
            inputs * outputs, lambda: bench.randn(outputs, inputs).to(torch.float8_e4m3fn)
        ),
    )
    return [partial(product, x8, w, one, one, bench.activation) for w in weights]


def _int4(bench: Bench, x: torch.Tensor, inputs: int, outputs: int) -> list[Callable[[], Any]]:
    import torch

    product = bench.kernel("w4a16_gemm", "w4a16_gemm")
    groups = inputs // _GROUP

    def weight() -> tuple[torch.Tensor, ...]:
        packed = bench.integers(1 << 31, inputs // 8, outputs).to(torch.int32)
        zeros = bench.integers(16, groups, outputs).to(bench.activation)
        return packed, bench.randn(groups, outputs), zeros

    weights = bench.kept(
        ("int4", inputs, outputs), lambda: bench.rotating(inputs * outputs / 2, weight)
    )
    return [partial(product, x, *w) for w in weights]
