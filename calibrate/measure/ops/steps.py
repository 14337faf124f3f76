"""Whole steps of the executor's model: what the sum of its operations leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from ..grids import Grids
from ..point import Point
from ..shapes import MEMORY_FRACTION, Shapes, kv_token_bytes
from .base import Job
from .bench import Bench
from .lengths import chunk_mixes, mix_of, parse_mix

if TYPE_CHECKING:
    from ...executor.batch import Batch
    from ...executor.runner import Done, Runner

STEP, DEVICE = "step", "step_device"
BY = ("decodes", "context_tokens")
_KV_SHARE = 0.6  # of the KV tokens that fit: graphs and activations need room as well


class Loaded(NamedTuple):
    """The executor's runner, and the ids of the blocks that its cache has."""

    runner: Runner
    blocks: list[int]


class Steps:
    """Decode, mixed and prefill steps by the host's clock ("step"), and on a GPU by its events.

    Args:
        count: how many decode, mixed and prefill steps.
        samples: of one, in one round.
    """

    def __init__(self, count: tuple[int, int, int], samples: int, *, on_gpu: bool) -> None:
        self._count, self._samples = count, samples
        self._ops = (STEP, DEVICE) if on_gpu else (STEP,)

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """Steps spread over what the cache holds; none where the executor cannot compute them."""
        if not can_execute(shapes):
            return []
        random, (decode, mixed, prefill) = Random("steps"), self._count
        longest = min(shapes.max_context, grids.contexts[-1])
        room = tokens(shapes)
        cases = [(*_decode(random, shapes, longest, room), "") for _ in range(decode)]
        for mix in chunk_mixes(mixed, shapes.budget // 2, longest):
            free = room - sum(new + before for new, before in mix)
            if free > 0:
                cases.append((*_decode(random, shapes, longest, free), mix_of(mix)))
        cases += [
            (0, 0, mix_of(mix))
            for mix in chunk_mixes(prefill, shapes.budget, longest)
            if sum(new + before for new, before in mix) <= room
        ]
        return [Point(op, BY, (b, n), variant) for op in self._ops for b, n, variant in cases]

    def build(self, point: Point, bench: Bench) -> Job:
        """Launch and wait, the inputs' way to the device included."""
        loaded = bench.kept("model", lambda: _load(bench))
        batch = batch_of(point, bench.shapes, loaded.blocks)

        def read() -> list[float]:
            times = [_timed(loaded.runner, batch) for _ in range(self._samples + 1)]
            which = [wall if point.op == STEP else done.device_ps / 1e12 for wall, done in times]
            return which[1:]  # the first may compile

        return Job((), read=read)


def can_execute(shapes: Shapes) -> bool:
    """Whether the executor computes this model: all of it, in bf16, without sliding windows."""
    return shapes.tp == 1 and shapes.dtype == "bf16" and not shapes.model.sliding_window


def tokens(shapes: Shapes) -> int:
    """KV tokens of the cache that whole steps are measured over."""
    most = shapes.max_seqs * min(shapes.max_context, 4096)
    return min(most, int(_KV_SHARE * shapes.max_tokens))


def _load(bench: Bench) -> Loaded:
    """The model with random weights and an empty cache on the device."""
    from ...executor.kv import KVCache
    from ...executor.model import Model
    from ...executor.runner import Runner
    from ...executor.weights import Random as Weights

    s, kind = bench.shapes, bench.activation
    blocks = -(-tokens(s) // s.block_size) + s.max_seqs
    model = Model(s.model, bench.ops, Weights(0, kind, bench.where), s.max_context, bench.where)
    cache = KVCache(s.model, blocks, s.block_size, dtype=bench.kv, device=bench.where)
    runner = Runner(model, cache, bench.where, graphs=s.max_seqs if bench.on_gpu else 0)
    loaded = Loaded(runner, (1 + bench.permutation(blocks)).tolist())
    if bench.on_gpu:
        bench.facts |= _capacity(loaded, s)
    return loaded


def _capacity(loaded: Loaded, shapes: Shapes) -> dict[str, float]:
    """KV blocks that fit, from what is free when a step of the whole budget has been computed.

    The cache that this was done over counts as free.
    """
    import torch

    largest = Point(STEP, BY, (0, 0), f"{min(shapes.budget, shapes.max_context)}@0")
    loaded.runner.launch(batch_of(largest, shapes, loaded.blocks)).wait()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    block_bytes = shapes.block_size * kv_token_bytes(shapes)
    held = (len(loaded.blocks) + 1) * block_bytes
    room = free + held - (1 - MEMORY_FRACTION) * total
    blocks = max(0, int(room // block_bytes))
    return {"kv_blocks": float(blocks), "memory_fraction": MEMORY_FRACTION}


def batch_of(point: Point, shapes: Shapes, blocks: Sequence[int]) -> Batch:
    """The inputs of a step: decodes first, then the chunks; every decode and chunk samples."""
    import numpy as np

    from ...executor.batch import Batch

    decodes, mean = point.at
    rows = [(1, mean - 1)] * decodes + (parse_mix(point.variant) if point.variant else [])
    counts, starts = (np.array(column) for column in zip(*rows, strict=True))
    lengths = counts + starts
    needs = -(-lengths // shapes.block_size)
    tables = np.zeros((len(rows), int(needs.max())), dtype=np.int32)
    taken = 0
    for i, need in enumerate(needs.tolist()):
        tables[i, :need] = blocks[taken : taken + need]
        taken += need
    first = np.cumsum(counts) - counts
    positions = np.arange(counts.sum()) - np.repeat(first - starts, counts)
    own = tables[np.repeat(np.arange(len(rows)), counts), positions // shapes.block_size]
    return Batch(
        tokens=np.random.default_rng(0).integers(0, shapes.vocab, int(counts.sum())),
        positions=positions.astype(np.int32),
        slots=own.astype(np.int64) * shapes.block_size + positions % shapes.block_size,
        decodes=decodes,
        tables=tables,
        lengths=lengths.astype(np.int32),
        query_start=np.concatenate([[0], np.cumsum(counts[decodes:])]).astype(np.int32),
        rows=first + counts - 1,
    )


def _timed(runner: Runner, batch: Batch) -> tuple[float, Done]:
    start = perf_counter()
    done = runner.launch(batch).wait()
    return perf_counter() - start, done


def _decode(random: Random, shapes: Shapes, longest: int, room: int) -> tuple[int, int]:
    """(decodes, context) log-uniform within *room* tokens."""
    decodes = _log_uniform(random, 1, min(shapes.max_seqs, max(1, room // 64)))
    most = max(2, min(longest, room // decodes - shapes.block_size))
    return decodes, _log_uniform(random, min(16, most), most)


def _log_uniform(random: Random, low: int, high: int) -> int:
    return round(math.exp(random.uniform(math.log(low), math.log(max(low, high)))))
