"""Tables of a datasheet, to be scaled by a run: what there is where nothing was measured."""

from __future__ import annotations

from ...sim.cost.ops import OPS
from ...sim.cost.overheads import Overheads
from ...sim.cost.profile import Grade, Profile, Stamp, Table
from ...sim.cost.specs import GpuSpec
from ..measure.grids import gpu_grids
from ..measure.ops import operations
from ..measure.point import Point
from ..measure.shapes import HEAD, Shapes

SIGMA = 0.3
_MOST_SEQUENCES = 512


def datasheet_profile(shapes: Shapes, gpu: GpuSpec) -> Profile:
    """A profile of the roofline of *gpu*, with the efficiencies of `Overheads`.

    Every operation is bound by arithmetic or by memory; none has a start of its own: the host's
    terms, once fitted, hold that.
    """
    grids = gpu_grids(shapes.budget, min(shapes.max_seqs, _MOST_SEQUENCES), shapes.max_context, ())
    points = [p for op in operations("cuda") for p in op.points(shapes, grids) if not p.variant]
    tables = [
        _table(op, times, mine, gpu)
        for op, times in _times(shapes).items()
        if (mine := [p for p in points if p.op == op])
    ]
    return Profile(
        name=f"{shapes.model.name} {shapes.dtype} on {gpu.name}, datasheet",
        stamp=Stamp(origin="fitted", gpu=gpu.name),
        model=shapes.model.name,
        dtype=shapes.dtype,
        kv_dtype=shapes.kv_dtype,
        tp=shapes.tp,
        attention="separate",
        tables=tuple(tables),
        missing=("all_reduce",) if shapes.tp > 1 else (),
    )


def _table(op: str, times: int, points: list[Point], gpu: GpuSpec) -> Table:
    grades: list[Grade] = ["datasheet"] * len(points)
    return Table(
        op=op,
        times=times,
        by=OPS[op].axes[0],
        points=tuple((*map(float, p.at), _seconds(p, gpu)) for p in points),
        grades=tuple(grades),
        sigma=SIGMA,
    )


def _times(shapes: Shapes) -> dict[str, int]:
    """Launches of every op in a step."""
    m = shapes.model
    every = dict.fromkeys(("decode_attention", "prefill_attention", "rope", "qk_norm"), m.layers)
    found = {
        **shapes.dense_gemms(),
        HEAD: 1,
        **every,
        "norm": 2 * m.layers + 1,
        "act": m.layers - m.moe_layers,
        "moe": m.moe_layers,
        "embedding": 1,
        "sampler": 1,
    }
    return {op: found[op] for op in OPS if found.get(op)}


def _seconds(point: Point, gpu: GpuSpec) -> float:
    over = Overheads()
    flops, memory = {
        "attention": (over.prefill_flops, over.attention_bytes),
        "moe": (over.moe_flops, over.moe_bytes),
        "elementwise": (over.gemm_flops, over.elementwise_bytes),
    }.get(OPS[point.op].family, (over.gemm_flops, over.gemm_bytes))
    arithmetic = point.flops / (gpu.bf16_flops * flops)
    return max(arithmetic, point.bytes / (gpu.memory_bytes_per_s * memory))
