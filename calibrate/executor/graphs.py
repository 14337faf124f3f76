"""Pure decode steps as CUDA graphs: one a batch size, rows padded with nothing.

A padded row has slot -1 (its KV is not written) and length 0 (its attention is zero).
"""

from __future__ import annotations

from typing import Any

import torch

from .batch import Batch
from .kv import KVCache
from .model import Inputs, Model
from .staging import staged

#: batch sizes that have a graph, as vLLM captures them: 1, 2, 4, then multiples of 8
SIZES = (1, 2, 4, *range(8, 257, 8))
_cuda: Any = torch.cuda  # untyped in places


class Graphs:
    """Graphs of one model over one KV cache, captured when made.

    Args:
        most: sequences in the largest batch.
        widest: blocks in the longest table.

    Attributes:
        hold_cycles: that the device is kept busy before a graph, so that the graph has been
            launched when it begins, as behind the step of an asynchronous engine; 0: none.
    """

    hold_cycles = 0

    def __init__(
        self, model: Model, kv: KVCache, device: torch.device, most: int, widest: int
    ) -> None:
        self._sizes = [size for size in SIZES if size < most]
        self._sizes += [size for size in SIZES if size >= most][:1]
        top = self._sizes[-1]
        self._tokens = torch.zeros(top, dtype=torch.int64, device=device)
        self._positions = torch.zeros(top, dtype=torch.int32, device=device)
        self._slots = torch.full((top,), -1, dtype=torch.int64, device=device)
        self._tables = torch.zeros(top, widest, dtype=torch.int32, device=device)
        self._lengths = torch.zeros(top, dtype=torch.int32, device=device)
        self._rows = torch.arange(top, device=device)
        #: of all graphs, for steps whose tokens are chosen under masks
        head = model.weights.head
        self._logits = torch.empty(top, len(head), dtype=head.dtype, device=device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        pool = None
        stream = _cuda.Stream(device)  # one for all: libraries keep a workspace for each
        for size in reversed(self._sizes):  # the largest first: the others fit in its memory
            inputs = self._inputs(size)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):  # kernels compile before anything is captured
                model.ops.greedy(model.forward(inputs, kv, self._logits[:size]))
            torch.cuda.current_stream(device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                tokens = model.ops.greedy(model.forward(inputs, kv, self._logits[:size]))
            pool = graph.pool()
            self._graphs[size] = (graph, tokens)

    def _inputs(self, size: int) -> Inputs:
        none = self._lengths[:0]
        return Inputs(
            self._tokens[:size],
            self._positions[:size],
            self._slots[:size],
            size,
            self._tables[:size],
            self._lengths[:size],
            self._tables[:0],
            none,
            torch.zeros(1, dtype=torch.int32, device=none.device),
            self._rows[:size],
        )

    def bucket(self, batch: Batch) -> int:
        """The graph that takes *batch*; 0 for none."""
        count = len(batch.tokens)
        if batch.decodes != count or len(batch.rows) != count:
            return 0
        return next((size for size in self._sizes if size >= count), 0)

    def fill(self, batch: Batch, bucket: int) -> None:
        """Write *batch* into the buffers of the graph."""
        count, width = batch.tables.shape
        for buffer, array in (
            (self._tokens, batch.tokens),
            (self._positions, batch.positions),
            (self._slots, batch.slots),
            (self._lengths, batch.lengths),
        ):
            buffer[:count].copy_(staged(array, buffer.device), non_blocking=True)
        tables = staged(batch.tables, self._tables.device)
        self._tables[:count, :width].copy_(tables, non_blocking=True)
        self._slots[count:bucket] = -1
        self._lengths[count:bucket] = 0
        if self.hold_cycles:
            _cuda._sleep(self.hold_cycles)

    def replay(self, bucket: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Launch the graph: [bucket, vocab] logits and [bucket] tokens, until its next replay."""
        graph, tokens = self._graphs[bucket]
        graph.replay()
        return self._logits[:bucket], tokens
