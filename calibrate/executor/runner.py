"""Steps on a device: inputs go there, the forward is launched, tokens come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from .batch import Batch
from .embeddings import Embeddings
from .graphs import Graphs
from .kv import KVCache
from .masks import Masks, blank
from .model import Inputs, Model
from .pictures import Picture, Pictures
from .staging import staged
from .tier import TierStore
from .tower import Tower

PS_PER_NS = 1000
WARM_UP_IMAGE_TOKENS = 64
_cuda: Any = torch.cuda  # untyped in places


class Done(NamedTuple):
    """What a step gave, and what it took on the host's and the device's clock.

    Attributes:
        tokens: the sampled ones, in the order of `Batch.rows`.
        mode, bucket: as in `sim.state.steps.MEASURED_COLUMNS`.
    """

    tokens: list[int]
    mode: str
    bucket: int
    prepare_ps: int
    launch_ps: int
    wait_ps: int
    device_ps: int


class Ticket(Protocol):
    """A step under way."""

    def wait(self) -> Done:
        """Block until it is computed; call it once."""


class StepRunner(Protocol):
    """Where steps of one replica are computed."""

    @property
    def waitable(self) -> Connection | None:
        """Readable when the oldest step is done; None: waiting for it holds up nobody else."""

    def ready(self) -> None:
        """Block until steps can be launched without delay."""

    def launch(self, batch: Batch) -> Ticket:
        """Compute a step after all that were launched before; may return at once."""

    def read_blocks(self, blocks: list[int]) -> torch.Tensor:
        """The KV of these blocks, after all steps launched so far; `KVCache.read`."""

    def write_blocks(self, blocks: list[int], content: torch.Tensor) -> None:
        """Put KV into these blocks, before any step launched from here on."""

    def keep_blocks(self, moves: list[tuple[int, int]]) -> None:
        """Copy blocks to slots of the tier in host memory; see `TierStore.keep`."""

    def fetch_blocks(self, moves: list[tuple[int, int]]) -> Callable[[], bool]:
        """Copy slots of the tier to blocks; see `TierStore.fetch`."""

    def swap_blocks(self, *, out: bool, moves: list[tuple[int, int]]) -> None:
        """Copy blocks to slots of the swap space, or back, before any step launched from here on.

        Args:
            moves: (block, slot) each way out, (slot, block) back.
        """

    def read_embedding(self, identifier: int) -> torch.Tensor:
        """The embedding of an image that a finished step encoded; `Embeddings.read`."""

    def write_embedding(self, identifier: int, content: torch.Tensor) -> None:
        """Keep an embedding for the steps launched from here on."""

    def close(self) -> None:
        """No step comes any more."""


class Runner:
    """Steps computed by this process, one after another.

    On a CPU, which is the host too, a step is computed when its tokens are waited for, or when
    something else needs it: so a step that is planned while another is under way does not take
    that one's time, as it would not on a device of its own.

    Args:
        graphs: capture pure decode steps in CUDA graphs up to this many sequences; 0: none.
        tier: in host memory; None: nothing is kept there.
        swap: for preempted requests; None: they lose their KV.
        tower: for images; None: they are an error.
    """

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        device: torch.device,
        *,
        graphs: int,
        tier: TierStore | None = None,
        swap: TierStore | None = None,
        tower: Tower | None = None,
    ) -> None:
        self._model, self._kv, self._device = model, kv, device
        self._sees, self._embeddings = tower is not None, Embeddings(tower, device)
        self._tier, self._swap = tier, swap
        widest = -(-len(model.cos_sin) // kv.block_size)
        self._graphs = Graphs(model, kv, device, graphs, widest) if graphs else None
        self._queue: deque[_Queued] = deque()  # launched on a CPU, not computed yet

    @property
    def waitable(self) -> Connection | None:
        """None: there is one device."""
        return None

    def ready(self) -> None:
        """It is."""

    def launch(self, batch: Batch) -> Ticket:
        """Have a step computed after all that were launched before."""
        begun = perf_counter_ns()
        if self._device.type == "cpu":
            inputs = inputs_of(batch, self._device)
            prepare_ns = perf_counter_ns() - begun
            queued = _Queued(self, inputs, batch.pictures, len(batch.rows), prepare_ns)
            self._queue.append(queued)
            return queued
        graphs = self._graphs
        # a chunk of one token may be an image's
        bucket = graphs.bucket(batch) if graphs is not None and not batch.pictures.places else 0
        if bucket:
            assert graphs is not None
            graphs.fill(batch, bucket)
        else:
            inputs = inputs_of(batch, self._device)
        prepared = perf_counter_ns()
        before = self._mark()
        if bucket:
            assert graphs is not None
            self._embeddings.see(batch.pictures)
            logits, tokens = (each[: len(batch.rows)] for each in graphs.replay(bucket))
            if batch.masks is not None:  # the graph chose without them
                tokens = self._model.chosen(logits, _masks_on(batch.masks, self._device))
        else:
            tokens = self._forward(inputs, batch.pictures, len(batch.rows))
        after = self._mark()
        pinned = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        tokens = pinned.copy_(tokens, non_blocking=True)  # to other memory it blocks the host
        home = self._mark()
        launched = perf_counter_ns()
        return _Launched(tokens, bucket, prepared - begun, launched - prepared, before, after, home)

    def _forward(self, inputs: Inputs, pictures: Pictures, samples: int) -> torch.Tensor:
        """[samples] tokens."""
        inputs.seen = self._embeddings.see(pictures)
        if not len(inputs.tokens):
            return torch.empty(0, dtype=torch.int64)
        logits = self._model.forward(inputs, self._kv)
        if not samples:
            return torch.empty(0, dtype=torch.int64)
        return self._model.chosen(logits, inputs.masks)

    def compute(self, last: _Queued | None = None) -> None:
        """Compute what was launched on a CPU, up to *last*; everything if None."""
        while self._queue:
            queued = self._queue.popleft()
            begun = perf_counter_ns()
            tokens = self._forward(queued.inputs, queued.pictures, queued.samples)
            computed = perf_counter_ns()
            listed = tokens.tolist()
            fetched_ps = (perf_counter_ns() - computed) * PS_PER_NS
            device_ps = (computed - begun) * PS_PER_NS
            prepare_ps = queued.prepare_ns * PS_PER_NS
            queued.done = Done(listed, "eager", 0, prepare_ps, device_ps, fetched_ps, device_ps)
            if queued is last:
                return

    def hold(self, cycles: int) -> None:
        """Keep a GPU busy for so many cycles before each graph; see `Graphs`."""
        if self._graphs is not None:
            self._graphs.hold_cycles = cycles

    def warm_up(self, most_tokens: int) -> None:
        """Compute steps of nothing, so that no measured step loads or compiles a kernel.

        Args:
            most_tokens: of the longest chunk.
        """
        for count in (1, 2, most_tokens):
            batch = Batch(
                tokens=np.zeros(count, dtype=np.int64),
                positions=np.arange(count, dtype=np.int32),
                slots=np.full(count, -1, dtype=np.int64),
                decodes=int(count == 1),
                tables=np.zeros((1, -(-count // self._kv.block_size)), dtype=np.int32),
                lengths=np.array([count], dtype=np.int32),
                query_start=np.array([0] if count == 1 else [0, count], dtype=np.int32),
                rows=np.array([count - 1]),
                masks=blank(self._model.spec.vocab),
            )
            inputs = inputs_of(batch, self._device)
            for _ in range(2):
                self._forward(inputs, batch.pictures, 1).tolist()
        if self._sees:
            self._embeddings.see(Pictures(encode=(Picture(-1, 0, WARM_UP_IMAGE_TOKENS),)))
            self._embeddings.see(Pictures(drop=(-1,)))

    def _mark(self) -> torch.cuda.Event:
        """A point in the device's queue."""
        event: torch.cuda.Event = _cuda.Event(enable_timing=True)
        event.record()
        return event

    def read_blocks(self, blocks: list[int]) -> torch.Tensor:
        """The KV of these blocks; see `KVCache.read`."""
        self.compute()
        return self._kv.read(torch.tensor(blocks, device=self._device))

    def write_blocks(self, blocks: list[int], content: torch.Tensor) -> None:
        """Put KV into these blocks."""
        self.compute()
        self._kv.write(torch.tensor(blocks, device=self._device), content)

    def keep_blocks(self, moves: list[tuple[int, int]]) -> None:
        """Copy blocks to slots of the tier in host memory."""
        self.compute()
        assert self._tier is not None
        self._tier.keep(moves)

    def fetch_blocks(self, moves: list[tuple[int, int]]) -> Callable[[], bool]:
        """Copy slots of the tier to blocks; the result says whether they are there."""
        self.compute()
        assert self._tier is not None
        return self._tier.fetch(moves)

    def swap_blocks(self, *, out: bool, moves: list[tuple[int, int]]) -> None:
        """Copy blocks to slots of the swap space, or back."""
        self.compute()
        assert self._swap is not None
        copy = self._swap.keep if out else self._swap.restore
        copy(moves)

    def read_embedding(self, identifier: int) -> torch.Tensor:
        """The embedding of an image that a finished step encoded."""
        return self._embeddings.read(identifier)

    def write_embedding(self, identifier: int, content: torch.Tensor) -> None:
        """Keep an embedding for the steps launched from here on."""
        self.compute()
        self._embeddings.write(identifier, content)

    def close(self) -> None:
        """Nothing to do."""


@dataclass(slots=True)
class _Queued:
    """A step of a CPU.

    Attributes:
        samples: rows that are sampled.
    """

    runner: Runner
    inputs: Inputs
    pictures: Pictures
    samples: int
    prepare_ns: int
    done: Done | None = None

    def wait(self) -> Done:
        """Compute it, and all that were launched before."""
        if self.done is None:
            self.runner.compute(self)
        assert self.done is not None
        return self.done


class _Launched(NamedTuple):
    """A step in the queue of a GPU."""

    sampled: torch.Tensor
    bucket: int
    prepare_ns: int
    launch_ns: int
    before: torch.cuda.Event
    after: torch.cuda.Event
    home: torch.cuda.Event

    def wait(self) -> Done:
        """Block until the tokens are here."""
        begun = perf_counter_ns()
        self.home.synchronize()
        device_ns = round(self.before.elapsed_time(self.after) * 1e6)
        tokens = self.sampled.tolist()
        return Done(
            tokens,
            "graph" if self.bucket else "eager",
            self.bucket,
            self.prepare_ns * PS_PER_NS,
            self.launch_ns * PS_PER_NS,
            (perf_counter_ns() - begun) * PS_PER_NS,
            device_ns * PS_PER_NS,
        )


def inputs_of(batch: Batch, device: torch.device) -> Inputs:
    """*batch* on the device."""
    arrays = (batch.tables, batch.lengths, batch.tokens, batch.positions, batch.slots)
    tables, lengths, tokens, positions, slots, starts, rows = (
        staged(array, device).to(device, non_blocking=True)
        for array in (*arrays, batch.query_start, batch.rows)
    )
    d = batch.decodes
    inputs = Inputs(
        tokens, positions, slots, d, tables[:d], lengths[:d], tables[d:], lengths[d:], starts, rows
    )
    if batch.masks is not None:
        inputs.masks = _masks_on(batch.masks, device)
    return inputs


def _masks_on(masks: Masks, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    words, rows = (staged(array, device).to(device, non_blocking=True) for array in masks)
    return words, rows
