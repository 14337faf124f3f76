"""The timing core: seconds of one launch, by CUDA graphs on a GPU and by the clock on a CPU.

On a GPU: R launches over rotating buffers in one CUDA graph, replayed with events between the
replays. Nothing waits between replays, so the launch of a graph is hidden behind the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

Call = Callable[[], object]

_MOST_LAUNCHES = 2000  # of a graph: capture time and memory of its nodes
_FEWEST = 3  # samples
_MOST_WARM = 20  # replays before those that are timed


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

    How many launches fill the span is read off a first graph: launched one by one, small kernels
    take the host longer than the device.

    Args:
        samples: timed replays, at most.
        span_s: least seconds of one replay: events resolve half a microsecond, and between two
            graphs the device does nothing for some.
        warm_s: replays of that long go before the timed ones, as clocks rise with the load.
        most_s: that long replays are timed, if there are three.
    """

    def __init__(
        self,
        samples: int = 12,
        span_s: float = 0.001,
        warm_s: float = 0.005,
        most_s: float = 0.25,
    ) -> None:
        self._samples, self._span_s, self._warm_s, self._most_s = samples, span_s, warm_s, most_s
        self._host = HostTimer(samples)
        self._stream: Any = None  # one for all: libraries keep a workspace for each

    def time(self, calls: Sequence[Call]) -> list[float]:
        """Seconds of one launch on the device."""
        cuda = _cuda()
        self._stream = self._stream or cuda.Stream()
        self._stream.wait_stream(cuda.current_stream())
        with cuda.stream(self._stream):
            for call in calls:  # compiles kernels, fills workspaces: neither may happen in capture
                call()
            first = self._launches(calls, self._eager(calls))
            graph = self._captured(calls, first)
            graph.replay()
            (took,) = self._replays(graph.replay, 1)
            launches = self._launches(calls, took / first)
            if launches > first:
                graph = self._captured(calls, launches)
            else:
                launches = first
            took *= launches / first
            for _ in range(max(2, min(_MOST_WARM, round(self._warm_s / max(took, 1e-7))))):
                graph.replay()
            samples = max(_FEWEST, min(self._samples, round(self._most_s / max(took, 1e-7))))
            found = self._replays(graph.replay, samples)
        cuda.current_stream().wait_stream(self._stream)
        return [seconds / launches for seconds in found]

    def wall(self, call: Call) -> list[float]:
        """Seconds by the host's clock."""
        return self._host.wall(call)

    def _eager(self, calls: Sequence[Call]) -> float:
        """Seconds of one launch by itself, the host's work included: no less than in a graph."""
        cuda = _cuda()
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / len(calls)

    def _captured(self, calls: Sequence[Call], launches: int) -> Any:
        cuda = _cuda()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=self._stream):
            for i in range(launches):
                calls[i % len(calls)]()
        return graph

    def _launches(self, calls: Sequence[Call], once_s: float) -> int:
        """Enough to fill the span, and whole turns over the buffers."""
        n = len(calls)
        turns = max(1, math.ceil(self._span_s / max(once_s, 1e-7) / n))
        return min(turns * n, max(n, _MOST_LAUNCHES // n * n))

    def _replays(self, replay: Call, samples: int) -> list[float]:
        """Seconds of so many replays, one right after the other."""
        cuda = _cuda()
        events = [cuda.Event(enable_timing=True) for _ in range(samples + 1)]
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
