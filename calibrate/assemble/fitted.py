"""Fits of the measured operations, each ready to become a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ...sim.cost.ops import OPS, Axis
from ...sim.cost.specs import GpuSpec
from ..fit import Device, OpFit, Span, fit_op
from ..measure.point import Point
from ..measure.shapes import HEAD, Shapes
from ..measure.stats import Summary

Measured = Mapping[Point, Summary]  #: every point with its median

#: of an op whose table goes by another name in the plan; one kind of adapter stands for all
_LORA = ("lora_r16_n8", "lora_r16_n2")


class Fitted(NamedTuple):
    """One operation of a step.

    Attributes:
        times: launches in a step.
        spans: the table's axes, as columns of the fit.
        fixed: the fit's other columns.
        summaries: of the points on the grid.
        uneven: measured over foretold, of batches of uneven lengths.
        note: what the table does not say by itself.
    """

    op: str
    times: int
    fit: OpFit
    spans: dict[Axis, Span]
    fixed: dict[str, float]
    summaries: dict[Point, Summary]
    uneven: tuple[float, ...] = ()
    note: str = ""

    def seconds(self, *at: float) -> float:
        """Of one launch, at coordinates in the order of `spans`."""
        columns = [span.column for span in self.spans.values()]
        given = dict(zip(columns, at, strict=True))
        return float(self.fit.predict({**self.fixed, **given}).seconds[0])


def fit_all(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> dict[str, Fitted]:
    """A fit of every op that a step may have and that was measured, in the order of `OPS`."""
    found = _gemms(measured, shapes, gpu)
    for make in (_decode, _prefill, _moe, _all_reduce):
        one = make(measured, shapes, gpu)
        if one is not None:
            found[one.op] = one
    found |= _rows(measured, shapes, gpu)
    return {op: found[op] for op in OPS if op in found}


def on_grid(measured: Measured, op: str) -> dict[Point, Summary]:
    """The points of *op* that its table is made of."""
    return {p: s for p, s in measured.items() if p.op == op and not p.variant}


def _gemms(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> dict[str, Fitted]:
    """Dense products share a fit with all that store their weights alike."""
    times = shapes.dense_gemms() | {HEAD: 1}
    groups: dict[float, list[str]] = {}
    for op in times:
        if on_grid(measured, op):
            groups.setdefault(shapes.weight_bytes(op), []).append(op)
    found = {}
    for weight_bytes, ops in groups.items():
        points = {p: s for op in ops for p, s in on_grid(measured, op).items()}
        shape = [shapes.gemm(p.op) for p in points]
        compute = "fp8" if weight_bytes == 1.0 else "bf16"
        fit = fit_op(
            "gemm",
            {
                "m": [p.at[0] for p in points],
                "n": [outputs for _, outputs in shape],
                "k": [inputs for inputs, _ in shape],
                "weight_bytes": weight_bytes,
            },
            _medians(points.values()),
            Device.of(gpu, compute),
        )
        for op in ops:
            k, n = shapes.gemm(op)
            fixed = {"n": float(n), "k": float(k), "weight_bytes": weight_bytes}
            span = _rows_span("m", shapes, op)
            found[op] = Fitted(op, times[op], fit, span, fixed, on_grid(measured, op))
    return found


def _decode(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> Fitted | None:
    grid = on_grid(measured, "decode_attention")
    if not grid:
        return None
    fixed = _heads(shapes)
    fit = fit_op(
        "decode_attention",
        {**fixed, "batch": [p.at[0] for p in grid], "context": [p.at[1] for p in grid]},
        _medians(grid.values()),
        Device.of(gpu),
    )
    spans: dict[Axis, Span] = {
        "decodes": Span("batch", 1, shapes.max_seqs),
        "context_tokens": Span("context", 1, shapes.max_context),
    }
    made = Fitted("decode_attention", shapes.model.layers, fit, spans, fixed, grid)
    uneven = _ratios(measured, "decode_attention", lambda p: made.seconds(*p.at))
    return made._replace(uneven=uneven)


def _prefill(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> Fitted | None:
    grid = on_grid(measured, "prefill_attention")
    if not grid:
        return None
    fixed = _heads(shapes)
    fit = fit_op(
        "prefill_attention",
        {**fixed, "chunk": [p.at[0] for p in grid], "prefix": [p.at[1] for p in grid]},
        _medians(grid.values()),
        Device.of(gpu),
    )
    spans: dict[Axis, Span] = {
        "chunk": Span("chunk", 1, shapes.budget),
        "prefix": Span("prefix", 0, shapes.max_context),
    }
    made = Fitted("prefill_attention", shapes.model.layers, fit, spans, fixed, grid)
    uneven = _ratios(measured, "prefill_attention", lambda p: _of_mix(made, p.variant))
    return made._replace(uneven=uneven)


def _moe(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> Fitted | None:
    grid = on_grid(measured, "moe")
    if not grid:
        return None
    m = shapes.model
    fixed = {
        "hidden": float(m.hidden),
        "inter": m.moe_ffn / shapes.tp,
        "experts": float(m.experts),
        "top_k": float(m.top_k),
        "weight_bytes": shapes.weight_bytes("moe"),
    }
    tokens = [p.at[0] for p in grid]
    fit = fit_op("moe", {**fixed, "tokens": tokens}, _medians(grid.values()), Device.of(gpu))
    spans: dict[Axis, Span] = {"tokens": Span("tokens", 1, shapes.budget)}
    made = Fitted("moe", m.moe_layers, fit, spans, fixed, grid, note="with the choice of experts")
    uneven = _ratios(measured, "moe", lambda p: made.seconds(*p.at))
    return made._replace(uneven=uneven)


def _all_reduce(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> Fitted | None:
    grid = on_grid(measured, "all_reduce")
    if not grid:
        return None
    fixed = {"gpus": float(shapes.tp)}
    sizes = [p.at[0] for p in grid]
    fit = fit_op("all_reduce", {**fixed, "bytes": sizes}, _medians(grid.values()), Device.of(gpu))
    spans: dict[Axis, Span] = {"bytes": Span("bytes", min(sizes), max(sizes))}
    return Fitted("all_reduce", 2 * shapes.model.layers, fit, spans, fixed, grid)


def _rows(measured: Measured, shapes: Shapes, gpu: GpuSpec) -> dict[str, Fitted]:
    """Everything else goes by rows, each op with a fit of its own."""
    m = shapes.model
    lora = next((op for op in _LORA if on_grid(measured, op)), "")
    ops = (
        ("embedding", "embedding", 1, ""),
        ("norm", "norm", 2 * m.layers, ""),
        ("norm", "final_norm", 1, "as the norms of the layers"),
        ("qk_norm", "qk_norm", m.layers, ""),
        ("rope", "rope", m.layers, ""),
        ("act", "act", m.layers - m.moe_layers, ""),
        ("sampler", "sampler", 1, "greedy"),
        ("bitmask", "bitmask", 1, ""),
        (lora, "lora", m.layers, f"on QKV; {lora}: rank and adapters of a batch"),
    )
    found = {}
    for source, op, times, note in ops:
        grid = on_grid(measured, source)
        if grid and times:
            found[op] = _one_by_rows(op, times, grid, shapes, gpu, note)
    return found


def _one_by_rows(
    op: str, times: int, grid: dict[Point, Summary], shapes: Shapes, gpu: GpuSpec, note: str
) -> Fitted:
    first = next(iter(grid))
    rows = first.at[0]
    fixed = {"row_bytes": first.bytes / rows, "row_flops": first.flops / rows}
    rows_of = [p.at[0] for p in grid]
    fit = fit_op("rows", {**fixed, "rows": rows_of}, _medians(grid.values()), Device.of(gpu))
    return Fitted(op, times, fit, _rows_span("rows", shapes, op), fixed, grid, note=note)


def _rows_span(column: str, shapes: Shapes, op: str) -> dict[Axis, Span]:
    (axis,) = OPS[op].axes[0]
    graphs = shapes.graph_sizes()
    last = shapes.max_seqs if axis == "sequences" else shapes.budget
    return {axis: Span(column, 1, last, tuple(n for n in graphs if n <= last))}


def _heads(shapes: Shapes) -> dict[str, float]:
    return {
        "heads": float(shapes.heads),
        "kv_heads": float(shapes.kv_heads),
        "head_dim": float(shapes.model.head_dim),
        "kv_bytes": float(shapes.kv_bytes),
    }


def _of_mix(made: Fitted, variant: str) -> float:
    """Chunks of one launch, as a step adds them up."""
    from ..measure.ops.lengths import parse_mix

    return sum(made.seconds(new, before) for new, before in parse_mix(variant))


def _ratios(measured: Measured, op: str, foretell: Callable[[Point], float]) -> tuple[float, ...]:
    uneven = [(p, s) for p, s in measured.items() if p.op == op and p.variant]
    return tuple(s.median_s / foretell(p) for p, s in uneven)


def _medians(summaries: Iterable[Summary]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([s.median_s for s in summaries])
