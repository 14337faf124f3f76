"""What the host costs: launching a kernel, replaying a graph by its nodes, waiting for an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..grids import Grids, doubling
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench
from .elementwise import rotations

if TYPE_CHECKING:
    import torch

_LAYERS = 8  # whose launches are timed together
_TOKENS, _WIDTH = 8, 64
_NODES = doubling(16, 1024, 4)


class Launches:
    """ "launch" everywhere; "graph_replay" and "event_sync" on a GPU."""

    def __init__(self, *, graphs: bool) -> None:
        self._graphs = graphs

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """First in the plan: they take no time and say much."""
        found = [Point("launch", (), ())]
        if self._graphs:
            found.append(Point("event_sync", (), ()))
            found += [Point("graph_replay", ("nodes",), (n,)) for n in _NODES]
        return found

    def build(self, point: Point, bench: Bench) -> Job:
        """All by the host's clock."""
        import torch

        one = torch.zeros(1, device=bench.where)
        if point.op == "launch":
            calls = _layer(bench)
            return Job([_eager(bench, calls)], on_host=True, launches=_LAYERS * len(calls))
        if point.op == "event_sync":
            event: Any = _event()

            def synchronise() -> None:
                event.record()
                event.synchronize()

            return Job([synchronise], on_host=True)
        graph = torch.cuda.CUDAGraph()
        one.add_(1.0)
        with torch.cuda.graph(graph):
            for _ in range(point.at[0]):
                one.add_(1.0)

        def replay() -> None:
            graph.replay()
            torch.cuda.synchronize()

        return Job([replay], on_host=True)


def _event() -> Any:
    import torch

    cuda: Any = torch.cuda  # not all of it is typed
    return cuda.Event()


def _eager(bench: Bench, calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
    """Many launches of next to no work, then one wait: the host is what takes time."""

    def call() -> None:
        for _ in range(_LAYERS):
            for one in calls:
                one()
        bench.wait()

    return call


def _layer(bench: Bench) -> list[Callable[[], object]]:
    """What a decoder layer of the executor launches, an operation of the tables each, over nothing.

    A kernel of ours takes the host several times as long to launch as one of torch's, and some
    operations are several: steps outside of graphs take what their own launches take.
    """
    import torch

    ops, model, n, block = bench.ops, bench.shapes.model, _TOKENS, bench.shapes.block_size
    x, weight, row = bench.randn(n, _WIDTH), bench.randn(_WIDTH, _WIDTH), bench.randn(_WIDTH)
    heads = bench.randn(n, 1, _WIDTH)
    cache = bench.randn(2, block, 1, _WIDTH, dtype=bench.kv)
    slots = block + torch.arange(n, device=bench.where)
    places = torch.arange(n, dtype=torch.int32, device=bench.where)
    table = torch.ones(1, 1, dtype=torch.int32, device=bench.where)
    starts = torch.tensor([0, n], dtype=torch.int32, device=bench.where)
    held = torch.full((1,), n, dtype=torch.int32, device=bench.where)
    turns = rotations(bench, n, _WIDTH)
    found = [
        lambda: ops.add_rms_norm(x, x, row, 1e-5),
        lambda: torch.nn.functional.linear(x, weight),
        lambda: ops.rope_kv_write(heads, heads, heads, places, turns, cache, cache, slots),
        lambda: ops.prefill_attention(heads, cache, cache, table, starts, held, scale=0.1),
        lambda: torch.nn.functional.linear(x, weight),
        lambda: ops.add_rms_norm(x, x, row, 1e-5),
    ]
    if model.qk_norm:
        _, *parts = torch.split(bench.randn(n, 3, _WIDTH), 1, 1)
        found.append(lambda: [ops.rms_norm(p.reshape(-1, _WIDTH), row, 1e-5) for p in parts])
    return found + (_experts(bench, x) if model.experts else _feed_forward(bench, x, weight))


def _feed_forward(
    bench: Bench, x: torch.Tensor, weight: torch.Tensor
) -> list[Callable[[], object]]:
    import torch

    wide = bench.randn(_TOKENS, 2 * _WIDTH)
    return [
        lambda: torch.nn.functional.linear(x, weight),
        lambda: bench.ops.silu_mul(wide),
        lambda: torch.nn.functional.linear(x, weight),
    ]


def _experts(bench: Bench, x: torch.Tensor) -> list[Callable[[], object]]:
    """The router, and the choice of experts with their products."""
    import torch

    ops, count = bench.ops, 4
    router = bench.randn(count, _WIDTH)
    logits = bench.randn(_TOKENS, count)
    gate_up, down = bench.randn(count, 2 * _WIDTH, _WIDTH), bench.randn(count, _WIDTH, _WIDTH)
    return [
        lambda: torch.nn.functional.linear(x, router),
        lambda: ops.moe(x, gate_up, down, *ops.route(logits, 2)),
    ]
