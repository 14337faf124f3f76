"""The timer of CUDA graphs over a device that is played: what it counts, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infersim.calibrate.measure import timer
from infersim.calibrate.measure.timer import GraphTimer

LAUNCH_S, GAP_S = 30e-6, 5e-6  # of a kernel by the host; of the device between two graphs


class Device:
    """Stands in for torch.cuda: a clock of the host, one of the device, and one stream at work.

    Args:
        kernel_s: that each launch takes the device.
    """

    def __init__(self, kernel_s: float) -> None:
        self.kernel_s = kernel_s
        self.host_s = self.device_s = 0.0
        self.capturing: list[int] | None = None
        self.streams: list[Device.Stream] = []
        self.graphs: list[int] = []
        outer = self

        class Stream:
            def __init__(self) -> None:
                outer.streams.append(self)

            def wait_stream(self, other: object) -> None:
                assert other is not self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at_s = max(outer.device_s, outer.host_s)

            def synchronize(self) -> None:
                outer.host_s = max(outer.host_s, self.at_s)

            def elapsed_time(self, other: Event) -> float:
                return (other.at_s - self.at_s) * 1e3

        class CUDAGraph:
            launches = 0

            def replay(self) -> None:
                outer.host_s += LAUNCH_S
                begun = max(outer.device_s, outer.host_s) + GAP_S
                outer.device_s = begun + self.launches * outer.kernel_s

        self.Stream, self.Event, self.CUDAGraph = Stream, Event, CUDAGraph
        self.usual = Stream()
        self.streams.clear()

    def current_stream(self) -> object:
        return self.usual

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        assert stream in self.streams
        self.capturing = [0]
        yield
        graph.launches = self.capturing[0]  # type: ignore[attr-defined]
        self.graphs.append(self.capturing[0])
        self.capturing = None

    def launch(self) -> None:
        if self.capturing is not None:
            self.capturing[0] += 1
            return
        self.host_s += LAUNCH_S
        self.device_s = max(self.device_s, self.host_s) + self.kernel_s


@pytest.mark.parametrize("kernel_s", [3e-6, 40e-6, 0.03, 0.4])
@pytest.mark.parametrize("buffers", [1, 6])
def test_a_launch_takes_what_the_device_takes(
    kernel_s: float, buffers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(kernel_s)
    monkeypatch.setattr(timer, "_cuda", lambda: device)
    samples = GraphTimer().time([device.launch] * buffers)
    assert samples == pytest.approx([kernel_s] * len(samples), rel=0.01)
    assert device.graphs[-1] % buffers == 0
    assert device.graphs[-1] * kernel_s > 0.8e-3
    assert 3 <= len(samples) <= 12
    assert device.device_s < 0.5 + 10 * buffers * kernel_s


def test_one_stream_serves_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library keeps a workspace for every stream that it was called on."""
    device = Device(3e-6)
    monkeypatch.setattr(timer, "_cuda", lambda: device)
    clock = GraphTimer()
    for _ in range(3):
        clock.time([device.launch])
    assert len(device.streams) == 1
