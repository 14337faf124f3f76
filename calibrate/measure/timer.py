"""The timing core: seconds of one launch, by CUDA graphs on a GPU and by the clock on a CPU.

On a GPU: R launches over rotating buffers in one CUDA graph, replayed with events between the
replays. Nothing waits between replays, so the launch of a graph is hidden behind the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

Call = Callable[[], object]

_MOST_LAUNCHES = 2000  # of a graph: capture time and memory of its nodes
_FEWEST = 3  # samples


class Timer(Protocol):
    """Times one launch of *calls*, which do the same work on different buffers in turn."""

    def time(self, calls: Sequence[Call]) -> list[float]:
        """Seconds of one launch, several independent samples."""

    def wall(self, call: Call) -> list[float]:
        """Seconds of one *call* by the host's clock; the call itself waits for the device."""


class HostTimer:
    """The clock of the host around as many launches as fill *span_s*.

    Args:
        samples: how many a call of `time` returns.
        span_s: least seconds of one sample: the clock's own cost vanishes in it, and it should be
            shorter than what a scheduler gives to others, so that most samples are undisturbed.
        most_s: after this long no further sample is taken, if there are three.
    """

    def __init__(self, samples: int = 9, span_s: float = 0.0003, most_s: float = 0.03) -> None:
        self._samples, self._span_s, self._most_s = samples, span_s, most_s

    def time(self, calls: Sequence[Call]) -> list[float]:
        """Seconds of one launch."""
        launches = self._launches(calls)
        end = perf_counter() + self._most_s
        found: list[float] = []
        while len(found) < self._samples and (len(found) < _FEWEST or perf_counter() < end):
            found.append(self._once(calls, launches))
        return found

    def wall(self, call: Call) -> list[float]:
        """The same for a single call."""
        return self.time([call])

    def _launches(self, calls: Sequence[Call]) -> int:
        self._once(calls, len(calls))  # allocators, caches, compilers
        once = self._once(calls, 1)
        return max(1, min(_MOST_LAUNCHES, round(self._span_s / max(once, 1e-7))))

    def _once(self, calls: Sequence[Call], launches: int) -> float:
        n = len(calls)
        start = perf_counter()
        for i in range(launches):
            calls[i % n]()
        return (perf_counter() - start) / launches


class GraphTimer:
    """CUDA graphs of at least *span_s*, replayed *samples* times.

    Args:
        samples: timed replays, after two untimed ones.
        span_s: least seconds of one replay: events resolve half a microsecond.
    """

    def __init__(self, samples: int = 12, span_s: float = 0.001) -> None:
        self._samples, self._span_s = samples, span_s
        self._host = HostTimer(samples)

    def time(self, calls: Sequence[Call]) -> list[float]:
        """Seconds of one launch on the device."""
        cuda = _cuda()
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for call in calls:  # compiles kernels, fills workspaces: neither may happen in capture
                call()
            launches = self._launches(calls, self._eager(calls))
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for i in range(launches):
                calls[i % len(calls)]()
        return [seconds / launches for seconds in self._replay(graph.replay)]

    def wall(self, call: Call) -> list[float]:
        """Seconds by the host's clock."""
        return self._host.wall(call)

    def _eager(self, calls: Sequence[Call]) -> float:
        """Seconds of one launch in a first, rough look."""
        cuda = _cuda()
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / len(calls)

    def _launches(self, calls: Sequence[Call], once_s: float) -> int:
        """Enough to fill the span, and whole turns over the buffers."""
        n = len(calls)
        turns = max(1, round(self._span_s / max(once_s, 1e-7) / n))
        return min(turns * n, max(n, _MOST_LAUNCHES // n * n))

    def _replay(self, replay: Call) -> list[float]:
        cuda = _cuda()
        events = [cuda.Event(enable_timing=True) for _ in range(self._samples + 1)]
        replay()
        replay()
        for event in events[:-1]:
            event.record()
            replay()
        events[-1].record()
        events[-1].synchronize()
        return [float(a.elapsed_time(b)) / 1e3 for a, b in pairwise(events)]


def _cuda() -> Any:
    """torch.cuda, of which not all is typed."""
    import torch

    return torch.cuda
