"""Adapters of low rank beside the QKV projection."""

from __future__ import annotations

from collections.abc import Sequence

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench


class Lora:
    """Shrink and expand on the QKV projection.

    Args:
        kinds: (rank, adapters in a batch), each an op of its own.
    """

    def __init__(self, kinds: Sequence[tuple[int, int]]) -> None:
        self._kinds = kinds

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By tokens, one op a rank and number of adapters ("lora_r16_n8"): last in the plan."""
        inputs, outputs = shapes.gemm("qkv")
        found = []
        size = shapes.activation_bytes
        for rank, adapters in self._kinds:
            work = float(rank * (inputs + outputs))
            for t in grids.coarse:
                traffic = size * (adapters * work + t * (inputs + 2 * outputs))
                op = f"lora_r{rank}_n{adapters}"
                found.append(Point(op, ("tokens",), (t,), "", 2 * t * work, traffic, 3))
        return found

    def build(self, point: Point, bench: Bench) -> Job:
        """Every token has one of the adapters, at random."""
        import torch

        rank, adapters = (int(part[1:]) for part in point.op.split("_")[1:])
        inputs, outputs = bench.shapes.gemm("qkv")
        add = bench.kernel("lora", "lora")
        (tokens,) = point.at
        x, out = bench.randn(tokens, inputs), bench.randn(tokens, outputs)
        a, b = bench.randn(adapters, rank, inputs), bench.randn(adapters, outputs, rank)
        which = bench.integers(adapters, tokens).to(torch.int32)
        scale = torch.full((adapters,), 1e-3, device=bench.where)
        return Job([lambda: add(x, a, b, which, scale, out)])
