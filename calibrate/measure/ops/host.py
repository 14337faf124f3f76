"""What the host costs: launching a kernel, replaying a graph by its nodes, waiting for an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..grids import Grids, doubling
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench

_LAUNCHES = 64
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
            return Job([_eager(bench, one.zero_)], on_host=True, launches=_LAUNCHES)
        if point.op == "event_sync":
            event: Any = _event()

            def synchronise() -> None:
                event.record()
                event.synchronize()

            return Job([synchronise], on_host=True)
        graph = torch.cuda.CUDAGraph()
        one.zero_()
        with torch.cuda.graph(graph):
            for _ in range(point.at[0]):
                one.zero_()

        def replay() -> None:
            graph.replay()
            torch.cuda.synchronize()

        return Job([replay], on_host=True)


def _event() -> Any:
    import torch

    cuda: Any = torch.cuda  # not all of it is typed
    return cuda.Event()


def _eager(bench: Bench, empty: Callable[[], object]) -> Callable[[], None]:
    """Many launches of next to no work, then one wait: the host is what takes time."""

    def call() -> None:
        for _ in range(_LAUNCHES):
            empty()
        bench.wait()

    return call
