"""Moving bytes: to the host and back, on the device, and whole KV blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench

if TYPE_CHECKING:
    import torch

_TO_HOST = ("copy_d2h_pinned", "copy_d2h_pageable")
_TO_DEVICE = ("copy_h2d_pinned", "copy_h2d_pageable", "copy_h2d_pinned_busy")
_BUSY_SIZE = 4096  # of the products that compute during "copy_h2d_pinned_busy"
_BUSY_BYTES = 8 << 20  # that are copied in less time than one of them takes


class Copies:
    """Copies by bytes. On the CPU back end there is one memory, so only "copy_d2d"."""

    def __init__(self, *, to_host: bool) -> None:
        self._to_host = to_host

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """Last in the plan: only tiers and transfers need them."""
        ops = ("copy_d2d", *_TO_HOST, *_TO_DEVICE) if self._to_host else ("copy_d2d",)
        return [
            Point(op, ("bytes",), (n,), "", 0.0, (2.0 if op == "copy_d2d" else 1.0) * n, 2)
            for op in ops
            for n in grids.copies
        ]

    def build(self, point: Point, bench: Bench) -> Job:
        """Copies to and from the host are timed there, each waited for."""
        import torch

        (size,) = point.at
        ours = torch.zeros(size, dtype=torch.uint8, device=bench.where)
        if point.op == "copy_d2d":
            return Job(_device_copies(bench, size))
        pinned = "pinned" in point.op
        host = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
        target, source = (host, ours) if point.op in _TO_HOST else (ours, host)
        compute = _products(bench, size) if point.op.endswith("busy") else None
        return Job([_waited(target, source, compute)], on_host=True)


class BlockCopies:
    """Gathering scattered KV blocks of one layer into one buffer, and back."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """By the number of blocks."""
        numbers = shapes.block_size * shapes.kv_heads * shapes.model.head_dim
        found = []
        for op in ("gather_blocks", "scatter_blocks"):
            for n in grids.blocks:
                if n * shapes.block_size <= shapes.max_tokens // 4:
                    traffic = 2.0 * n * numbers * shapes.kv_bytes
                    found.append(Point(op, ("blocks",), (n,), "", 0.0, traffic, 2))
        return found

    def build(self, point: Point, bench: Bench) -> Job:
        """Random ids in a cache four times as large as the blocks."""
        s, (n,) = bench.shapes, point.at
        shape = (4 * n, s.block_size, s.kv_heads, s.model.head_dim)
        cache = bench.randn(*shape, dtype=bench.kv)
        ids = bench.permutation(4 * n)[:n].contiguous()
        if point.op == "gather_blocks":
            gather = bench.kernel("block_copy", "gather_blocks", "gather_reference")
            return Job([lambda: gather(cache, ids)])
        scatter = bench.kernel("block_copy", "scatter_blocks", "scatter_reference")
        blocks = bench.randn(n, *shape[1:], dtype=bench.kv)
        return Job([lambda: scatter(cache, ids, blocks)])


def _device_copies(bench: Bench, size: int) -> list[Callable[[], object]]:
    import torch

    def pair() -> tuple[torch.Tensor, torch.Tensor]:
        source = torch.ones(size, dtype=torch.uint8, device=bench.where)
        return torch.empty_like(source), source

    return [partial(t.copy_, s) for t, s in bench.rotating(2 * size, pair)]


def _waited(
    target: torch.Tensor, source: torch.Tensor, compute: Callable[[], object] | None
) -> Callable[[], None]:
    """A copy on a stream of its own, waited for; *compute* runs meanwhile on the usual one."""
    import torch

    cuda: Any = torch.cuda  # not all of it is typed
    stream = cuda.Stream()

    def call() -> None:
        if compute is not None:
            compute()
        with cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        stream.synchronize()

    return call


def _products(bench: Bench, size: int) -> Callable[[], object]:
    """As many products as last longer than a copy of *size* bytes."""
    import torch

    a, b = (bench.randn(_BUSY_SIZE, _BUSY_SIZE) for _ in range(2))
    out = torch.empty_like(a)
    count = -(-size // _BUSY_BYTES)

    def call() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    return call
