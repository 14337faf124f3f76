"""What measures: seconds of a point on the real device, and anchors that show its drift."""

from __future__ import annotations

from statistics import median
from time import monotonic
from typing import NamedTuple, Protocol

from .device import Device, Readings, readings
from .ops import Job, Op
from .ops.bench import Bench
from .point import Point
from .shapes import Shapes
from .timer import GraphTimer, HostTimer, Timer

_ANCHOR_SIZE = {"cuda": 8192, "cpu": 256}  # of the square product
_ANCHOR_BYTES = {"cuda": 1 << 30, "cpu": 1 << 21}
_READ_EVERY_S = 15.0  # asking the driver takes a process, and it a fraction of a second


class Anchor(NamedTuple):
    """Seconds of two operations that never change: what they change by is the device's drift."""

    matmul_s: float
    copy_s: float

    def drift(self, other: Anchor) -> float:
        """The larger of both relative changes."""
        pairs = zip(self, other, strict=True)
        return max(abs(b / a - 1) for a, b in pairs)


class Meter(Protocol):
    """What `run.Runner` asks of a device."""

    @property
    def facts(self) -> dict[str, float]:
        """What was seen beside times, so far."""

    def samples(self, point: Point) -> list[float]:
        """Seconds of one launch of *point*, several times."""

    def anchor(self) -> Anchor:
        """The anchors, now."""

    def readings(self) -> Readings:
        """Clocks and temperature, now."""

    def release(self) -> None:
        """Free what the last family of points shared."""


class TorchMeter:
    """A meter on torch's device.

    Args:
        ops: which family builds the points of each op.
        timer: the timing core; chosen by the device if None.

    Attributes:
        bench: where its inputs are made.
    """

    def __init__(
        self, shapes: Shapes, device: Device, ops: dict[str, Op], timer: Timer | None = None
    ) -> None:
        self.bench = Bench(shapes, device)
        self._ops, self._device = ops, device
        self._timer = timer or (GraphTimer() if device.kind == "cuda" else HostTimer())
        self._anchors: tuple[Job, Job] | None = None
        self._told, self._told_at = Readings(), float("-inf")

    @property
    def facts(self) -> dict[str, float]:
        """What was seen beside times, so far."""
        return self.bench.facts

    def samples(self, point: Point) -> list[float]:
        """Builds the inputs, warms up, times."""
        import torch

        with torch.no_grad():  # as the executor runs
            return self._time(self._ops[point.op].build(point, self.bench))

    def anchor(self) -> Anchor:
        """A square product in the type of activations, and a copy on the device."""
        if self._anchors is None:
            self._anchors = _anchors(self.bench)
            self._time(self._anchors[0])  # clocks rise from idle
        matmul, copy = (median(self._time(job)) for job in self._anchors)
        return Anchor(matmul, copy)

    def readings(self) -> Readings:
        """What the driver says, or said a few seconds ago."""
        now = monotonic()
        if now - self._told_at > _READ_EVERY_S:
            self._told, self._told_at = readings(self._device), now
        return self._told

    def release(self) -> None:
        """Forget shared weights and caches."""
        self.bench.forget()

    def _time(self, job: Job) -> list[float]:
        if job.read is not None:
            return job.read()
        if not job.on_host:
            return self._timer.time(job.calls)
        return [seconds / job.launches for seconds in self._timer.wall(job.calls[0])]


def anchor_work(kind: str) -> tuple[float, float]:
    """(operations of the product, bytes that the copy reads and writes)."""
    return 2.0 * _ANCHOR_SIZE[kind] ** 3, 2.0 * _ANCHOR_BYTES[kind]


def _anchors(bench: Bench) -> tuple[Job, Job]:
    import torch

    n, size = _ANCHOR_SIZE[bench.device.kind], _ANCHOR_BYTES[bench.device.kind]
    a, b = bench.randn(n, n), bench.randn(n, n)
    out = torch.empty_like(a)
    source = torch.ones(size, dtype=torch.uint8, device=bench.where)
    target = torch.empty_like(source)
    return Job([lambda: torch.mm(a, b, out=out)]), Job([lambda: target.copy_(source)])
