"""All-reduce over the GPUs of this machine, timed in a process each."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from ..grids import Grids, doubling
from ..point import Point
from ..shapes import Shapes
from .base import Job
from .bench import Bench

_SIZES = doubling(256, 1 << 29, 4)
_LAUNCHES, _SAMPLES = 20, 12


class AllReduce:
    """The all-reduce of a TP group, by bytes, where so many devices are here.

    Args:
        devices: of this machine; on a CPU, processes that may be started.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """None for a single GPU, or with fewer devices than the group needs."""
        if not 1 < shapes.tp <= self._devices:
            return []
        share = 2 * (shapes.tp - 1) / shapes.tp
        return [Point("all_reduce", ("bytes",), (n,), "", 0.0, share * n) for n in _SIZES]

    def build(self, point: Point, bench: Bench) -> Job:
        """All sizes are timed at once, when the first is asked for."""
        tp, kind = bench.shapes.tp, bench.device.kind
        found = bench.kept("all_reduce", lambda: measure(tp, kind, _SIZES))
        return Job((), read=lambda: list(found[point.at[0]]))


def measure(ranks: int, kind: str, sizes: tuple[int, ...]) -> dict[int, list[float]]:
    """Seconds of an all-reduce of each size in bytes among *ranks* processes, on rank 0's clock.

    NCCL on GPUs, gloo on a CPU.
    """
    import torch.multiprocessing

    processes: Any = torch.multiprocessing  # not all of it is typed
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_rank, (ranks, kind, sizes, folder), ranks)
        found: dict[int, list[float]] = torch.load(Path(folder) / "times.pt")
    return found


def _rank(rank: int, ranks: int, kind: str, sizes: tuple[int, ...], folder: str) -> None:
    import torch
    import torch.distributed as group

    device = torch.device(kind, rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if kind == "cuda" else "gloo"
    store = f"file://{folder}/meeting"
    group.init_process_group(backend, init_method=store, rank=rank, world_size=ranks)
    found = {}
    for size in sizes:
        x = torch.randn(size // 4, device=device)
        found[size] = [_once(x, kind) for _ in range(_SAMPLES + 2)][2:]
    if rank == 0:
        torch.save(found, Path(folder) / "times.pt")
    group.destroy_process_group()


def _once(x: object, kind: str) -> float:
    import torch
    import torch.distributed as group

    group.barrier()
    start = perf_counter()
    for _ in range(_LAUNCHES):
        group.all_reduce(x)
    if kind == "cuda":
        torch.cuda.synchronize()
    return (perf_counter() - start) / _LAUNCHES
