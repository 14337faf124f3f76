"""Whole steps of the executor: what the sum of its operations leaves out."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any

from ....scenarios.catalog import load
from ....sim.cost.roofline import Roofline
from ..grids import Grids
from ..point import Point
from ..shapes import MEMORY_FRACTION, Shapes, kv_token_bytes
from .base import Job
from .bench import Bench
from .lengths import Mix, chunk_mixes, mix_of, parse_mix

if TYPE_CHECKING:
    from ..loop import Loop

STEP, DEVICE = "step", "step_device"
BY = ("decodes", "context_tokens")
_KV_SHARE = 0.6  # of the KV tokens that fit: graphs and activations need room as well


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
        for raw in chunk_mixes(mixed, shapes.budget // 2, longest, fewest=1):
            mix = _in_blocks(raw, shapes.block_size)
            free = room - sum(new + before for new, before in mix)
            if free > 0:
                cases.append((*_decode(random, shapes, longest, free), mix_of(mix)))
        for raw in chunk_mixes(prefill, shapes.budget, longest, fewest=1):
            mix = _in_blocks(raw, shapes.block_size)
            if sum(new + before for new, before in mix) <= room:
                cases.append((0, 0, mix_of(mix)))
        return [Point(op, BY, (b, n), variant) for op in self._ops for b, n, variant in cases]

    def build(self, point: Point, bench: Bench) -> Job:
        """In the executor's own loop, on a synchronous engine."""
        loop = bench.kept("model", lambda: _load(bench))
        (decodes, context), mix = point.at, parse_mix(point.variant) if point.variant else []
        # every step is timed by both clocks: what the other one said is kept for its own point
        told: dict[tuple[str, object], list[list[float]]] = bench.kept("step times", dict)

        def read() -> list[float]:
            waiting = told.setdefault((point.op, point.key[1:]), [])
            if not waiting:
                times = loop.steps(decodes, context, mix, self._samples)
                for op in self._ops:
                    seconds = [one.wall_s if op == STEP else one.device_s for one in times]
                    if op == DEVICE and not mix:  # launching a graph is the host's, who may hide it
                        again = loop.steps(decodes, context, mix, self._samples, held=True)
                        seconds = [one.device_s for one in again]
                    told.setdefault((op, point.key[1:]), []).append(seconds)
            return waiting.pop(0)

        return Job((), read=read)


def can_execute(shapes: Shapes) -> bool:
    """Whether the executor computes this model: all of it, in bf16, without sliding windows."""
    return shapes.tp == 1 and shapes.dtype == "bf16" and not shapes.model.sliding_window


def tokens(shapes: Shapes) -> int:
    """KV tokens of the cache that whole steps are measured over."""
    most = shapes.max_seqs * min(shapes.max_context, 4096)
    return min(most, int(_KV_SHARE * shapes.max_tokens))


def _load(bench: Bench) -> Loop:
    """The model with random weights and an empty cache on the device."""
    from ...executor.kv import KVCache
    from ...executor.model import Model
    from ...executor.weights import Random as Weights
    from ..loop import Loop

    s, kind, others_bytes = bench.shapes, bench.activation, _allocated(bench)
    blocks = -(-(tokens(s) + 2 * s.budget) // s.block_size) + 2 * s.max_seqs
    model = Model(s.model, bench.ops, Weights(0, kind, bench.where), s.max_context, bench.where)
    cache = KVCache(s.model, blocks, s.block_size, dtype=bench.kv, device=bench.where)
    cost = Roofline(s.model, load.gpu("cpu"))  # whatever it says, steps take what they take
    loop = Loop(model, cache, bench.where, cost, graphs=s.max_seqs if bench.on_gpu else 0)
    if bench.on_gpu:
        bench.facts |= _capacity(loop, s, blocks, others_bytes)
    return loop


def _allocated(bench: Bench) -> int:
    """Bytes of the device's memory that this process has tensors in."""
    import torch

    return int(torch.cuda.memory_allocated()) if bench.on_gpu else 0


def _capacity(loop: Loop, shapes: Shapes, held_blocks: int, others_bytes: int) -> dict[str, float]:
    """KV blocks that fit beside the model, its graphs and a step of the whole budget.

    What drawing the weights left behind counts as free, as do the cache that this is done over
    and *others_bytes*, which the measurement holds.
    """
    import torch

    cuda: Any = torch.cuda  # not all of it is typed
    cuda.empty_cache()
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    loop.steps(0, 0, [(min(shapes.budget, shapes.max_context), 0)], 1)
    cuda.synchronize()
    activations = cuda.max_memory_allocated() - before
    cuda.empty_cache()
    free, total = cuda.mem_get_info()
    block_bytes = shapes.block_size * kv_token_bytes(shapes)
    held = (held_blocks + 1) * block_bytes + others_bytes
    room = free + held - activations - (1 - MEMORY_FRACTION) * total
    blocks = max(0, int(room // block_bytes))
    return {"kv_blocks": float(blocks), "memory_fraction": MEMORY_FRACTION}


def _in_blocks(mix: Mix, size: int) -> list[tuple[int, int]]:
    """The mix with whole blocks before each chunk: what a prefix cache finds."""
    return [(new, before // size * size) for new, before in mix]


def _decode(random: Random, shapes: Shapes, longest: int, room: int) -> tuple[int, int]:
    """(decodes, context) log-uniform within *room* tokens."""
    decodes = _log_uniform(random, 1, min(shapes.max_seqs, max(1, room // 64)))
    most = max(2, min(longest, room // decodes - shapes.block_size))
    return decodes, _log_uniform(random, min(16, most), most)


def _log_uniform(random: Random, low: int, high: int) -> int:
    return round(math.exp(random.uniform(math.log(low), math.log(max(low, high)))))
