"""Mixtures of experts: choosing them and their grouped products, for the model's exact shape."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from .base import Job, by_tokens
from .bench import Bench

if TYPE_CHECKING:
    import torch

_ZIPF = 1.2


class Experts:
    """Choosing experts and their products, by tokens; "zipf" says what uneven loads cost."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """None for a dense model."""
        m = shapes.model
        if not m.experts:
            return []
        tokens = (*grids.coarse, *grids.fine)
        width = m.moe_ffn // shapes.tp
        found = []
        for t in tokens:
            active = m.experts * (1 - (1 - m.top_k / m.experts) ** t)
            traffic = active * 3 * m.hidden * width * shapes.weight_bytes("moe")
            traffic += 2.0 * t * m.top_k * m.hidden * shapes.activation_bytes
            flops = 6.0 * t * m.top_k * m.hidden * width
            point = by_tokens("moe", t, flops, traffic, grids)
            found += [point, point._replace(variant="zipf", priority=2)]
        return found

    def build(self, point: Point, bench: Bench) -> Job:
        """One of the rotating sets of experts a launch."""
        m, (tokens,) = bench.shapes.model, point.at
        route, run = bench.ops.route, bench.ops.moe
        width = m.moe_ffn // bench.shapes.tp
        size = m.experts * 3 * m.hidden * width * bench.shapes.activation_bytes
        sets = bench.kept("experts", lambda: bench.rotating(size, lambda: _weights(bench, width)))
        x = bench.randn(tokens, m.hidden)
        logits = _logits(bench, tokens, point.variant)

        def call(gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
            return run(x, gate_up, down, *route(logits, m.top_k))

        return Job([partial(call, gate_up, down) for gate_up, down in sets])


def _weights(bench: Bench, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    m = bench.shapes.model
    return bench.randn(m.experts, 2 * width, m.hidden), bench.randn(m.experts, m.hidden, width)


def _logits(bench: Bench, tokens: int, variant: str) -> torch.Tensor:
    """Scores whose best k are drawn with equal chances, or in proportion to 1 / rank^1.2."""
    import torch

    m = bench.shapes.model
    ranks = torch.arange(1, m.experts + 1, device=bench.where, dtype=torch.float32)
    chances = -_ZIPF * ranks.log() if variant == "zipf" else torch.zeros_like(ranks)
    gumbel = -(-bench.uniform(tokens, m.experts).clamp(1e-6, 1 - 1e-6).log()).log()
    return (chances + gumbel).to(bench.activation)
