"""Decode steps as graphs: what their buffers hold, with the capture itself left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the executor needs torch")

import torch

from infersim.calibrate.executor.batch import Batch
from infersim.calibrate.executor.graphs import Graphs
from infersim.calibrate.executor.kv import KVCache
from infersim.calibrate.executor.model import Model
from infersim.calibrate.executor.ops import TorchOps
from infersim.calibrate.executor.runner import inputs_of
from infersim.calibrate.executor.staging import staged
from infersim.calibrate.executor.weights import Random
from infersim.scenarios.catalog import load

CPU = torch.device("cpu")
BLOCKS, SIZE = 40, 16


class Stream:
    """Of no device; counts how many there are."""

    made = 0

    def __init__(self, device: object) -> None:
        Stream.made += 1

    def wait_stream(self, other: object) -> None:
        """Nothing runs on it."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    @contextmanager
    def captured(graph: object, *, pool: object, stream: object) -> Iterator[None]:
        assert isinstance(stream, Stream)
        yield

    class Graph:
        def pool(self) -> str:
            return "pool"

    Stream.made = 0
    cuda = SimpleNamespace(
        Stream=Stream,
        CUDAGraph=Graph,
        graph=captured,
        stream=lambda stream: nullcontext(),
        current_stream=lambda device: Stream(device),
    )
    for name, value in vars(cuda).items():
        monkeypatch.setattr(torch.cuda, name, value)
    spec = load.model("tiny")
    model = Model(spec, TorchOps(), Random(0, torch.float32, CPU), 256, CPU)
    kv = KVCache(spec, BLOCKS, SIZE, dtype=torch.float32, device=CPU)
    generator = torch.Generator().manual_seed(1)
    for cache in (*kv.keys, *kv.values):
        cache.copy_(torch.randn(cache.shape, generator=generator))
    made = Graphs(model, kv, CPU, 20, 16)
    made.model, made.kv = model, kv  # type: ignore[attr-defined]
    return made


def batch_of(lengths: list[int]) -> Batch:
    """One token each of sequences that hold as many tokens, in blocks of their own."""
    ends = np.array(lengths)
    widest = -(-int(ends.max()) // SIZE)
    tables = np.zeros((len(ends), widest), dtype=np.int32)
    free = iter(range(1, BLOCKS + 1))
    for row, n in zip(tables, lengths, strict=True):
        row[: -(-n // SIZE)] = [next(free) for _ in range(-(-n // SIZE))]
    last = tables[np.arange(len(ends)), (ends - 1) // SIZE]
    return Batch(
        tokens=np.arange(3, 3 + len(ends)),
        positions=(ends - 1).astype(np.int32),
        slots=last.astype(np.int64) * SIZE + (ends - 1) % SIZE,
        decodes=len(ends),
        tables=tables,
        lengths=ends.astype(np.int32),
        query_start=np.zeros(1, dtype=np.int32),
        rows=np.arange(len(ends)),
    )


def replayed(graphs: Graphs, batch: Batch) -> torch.Tensor:
    """What the graph of *batch* computes from its buffers."""
    bucket = graphs.bucket(batch)
    graphs.fill(batch, bucket)
    inputs = graphs._inputs(bucket)
    return graphs.model.forward(inputs, graphs.kv)  # type: ignore[attr-defined, no-any-return]


def test_padded_rows_change_nothing_whatever_was_there_before(graphs: Graphs) -> None:
    for lengths in ([5, 90, 33], [200], [17, 1, 64, 8, 30, 2, 16, 48, 9], [40, 3]):
        batch = batch_of(lengths)
        before = [cache.clone() for cache in (*graphs.kv.keys, *graphs.kv.values)]  # type: ignore[attr-defined]
        eager = graphs.model.forward(inputs_of(batch, CPU), graphs.kv)  # type: ignore[attr-defined]
        after = [cache.clone() for cache in (*graphs.kv.keys, *graphs.kv.values)]  # type: ignore[attr-defined]
        for cache, old in zip((*graphs.kv.keys, *graphs.kv.values), before, strict=True):  # type: ignore[attr-defined]
            cache.copy_(old)
        found = replayed(graphs, batch)
        torch.testing.assert_close(found[: len(lengths)], eager, rtol=1e-5, atol=1e-5)
        for cache, new in zip((*graphs.kv.keys, *graphs.kv.values), after, strict=True):  # type: ignore[attr-defined]
            torch.testing.assert_close(cache, new, rtol=1e-5, atol=1e-5)


def test_graphs_of_all_sizes_are_captured_on_one_stream(graphs: Graphs) -> None:
    """A library keeps a workspace for every stream that it was called on."""
    waited_for = 2 * len(graphs._sizes)
    assert Stream.made - waited_for == 1
    assert graphs._sizes == [1, 2, 4, 8, 16, 24]


def test_the_device_is_held_when_all_else_is_there(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[int, list[int]]] = []
    slots = graphs._slots
    monkeypatch.setattr(torch.cuda, "_sleep", lambda n: held.append((n, slots[:4].tolist())))
    graphs.fill(batch_of([5, 33, 2]), 4)
    assert held == []
    graphs.hold_cycles = 7
    graphs.fill(batch_of([40]), 4)
    assert held == [(7, [3 * SIZE + 7, -1, -1, -1])]


def test_arrays_are_as_they_were() -> None:
    array = np.arange(6).reshape(2, 3)
    assert staged(array, CPU).tolist() == array.tolist()
    assert staged(np.zeros((0, 3)), CPU).shape == (0, 3)
