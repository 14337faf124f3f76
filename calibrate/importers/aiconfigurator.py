"""A profile from the kernel tables of aiconfigurator (Apache-2.0): real GPUs, several engines.

The tables hold matrix products, attention, experts and collectives over grids of shapes; a fit
foretells the shapes of a model from their own rows and the nearest others. They hold nothing
element-wise: norms, rotary embedding and activation are a launch and their bytes, graded datasheet,
and the sampler is named as missing. Where a system has no table of an operation, that of another
system in the same folder stands in, rescaled by the datasheets and graded transferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import hypot
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...policies.errors import InputError, UnknownNameError
from ...scenarios.catalog.load import gpu as gpu_named
from ...scenarios.catalog.load import model as model_named
from ...scenarios.catalog.load import names
from ...sim.cost import parameters
from ...sim.cost.dtypes import HALF_BYTES, kv_element_bytes
from ...sim.cost.ops import Axis
from ...sim.cost.profile import Graphs, Profile, Stamp, Table
from ...sim.cost.specs import GpuSpec, ModelSpec, Parallelism
from ..fit import Device, OpFit, Span, densify, fit_op, kind_named
from .aiconfigurator_tables import Points, Tables

ENGINES = ("vllm", "sglang", "trtllm")
SOURCE = "github:ai-dynamo/aiconfigurator"
LICENCE = "Apache-2.0"

_GEMM_DTYPES = {"bf16": "bfloat16", "fp8": "fp8"}
_MOST_TOKENS = 16_384
_MOST_DECODES = 512
_MOST_CONTEXT = 131_072
_MOST_SEQUENCES = 1_024
_NEAREST_SHAPES = 12
#: how far two collections of the same kernels lie apart (vLLM 0.24 and 0.19 on an H100), as a share
_SIGMAS = {
    "gemm": 0.03,
    "decode_attention": 0.14,
    "prefill_attention": 0.05,
    "moe": 0.05,
    "all_reduce": 0.03,
}
_DATASHEET_SIGMA = 0.3
_TRANSFER_SIGMA = 0.06  #: H100 products rescaled to an H200 are 4.1 % off in the median
#: batch sizes that vLLM captures CUDA graphs of
VLLM_GRAPHS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


def read(
    folder: Path | str,
    *,
    model: str,
    gpu: str,
    tp: int = 1,
    ep: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "vllm",
    version: str = "",
    gemm_dtype: str = "",
    skew: float = 1.2,
) -> Profile:
    """The profile of *model* on *gpu*, from the tables below *folder*.

    Args:
        folder: aiconfigurator's ``systems/data``, any folder above or below it that keeps the
            system in the path, or a flat folder of ``h100_sxm__…`` files.
        ep: how many groups of GPUs share the experts: of the tp GPUs, which tp / ep split each
            expert, or more where data-parallel ranks share whole experts (dp = ep / tp).
        version: of the engine, "" for the newest of each table.
        gemm_dtype: "fp8_block" for fp8 with a scale for each block of weights; "" follows *dtype*.
        skew: exponent of the power law by which experts are chosen; 0 is balanced.

    Raises:
        InputError: no such tables, or a model they cannot describe (latent or windowed attention).
        UnknownNameError: an unknown model, GPU, dtype or engine.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    spec, chip = model_named(model), gpu_named(gpu)
    spec.check(Parallelism(tp))
    _check_model(spec, tp, ep)
    form = spec.format(dtype).name
    quantised = gemm_dtype or _GEMM_DTYPES.get(form, "")
    if not quantised:
        raise InputError(
            f"the tables have no dense products in {form}",
            where="dtype",
            help=f"there are: {', '.join(_GEMM_DTYPES)}",
        )
    kv = "fp8" if kv_element_bytes(kv_dtype) == 1 else "bf16"
    tables = _tables_of(folder, chip, engine, version)
    job = _Import(tables, spec, chip, tp, ep, quantised, kv, skew)
    found = job.tables()
    if not found:
        raise InputError(f"no table of {engine} for {tables.system}", where=str(folder))
    return Profile(
        name=f"{spec.name} {form} tp{tp} on {chip.name}, {engine} by aiconfigurator",
        stamp=Stamp(
            origin="imported",
            gpu=chip.name,
            device=job.device,
            engine=f"{engine} {version}".strip(),
            created=datetime.now(UTC).date().isoformat(),
            source=f"{SOURCE}: {'; '.join(sorted(job.labels))}",
            licence=LICENCE,
        ),
        model=spec.name,
        dtype=form,
        kv_dtype=kv,
        tp=tp,
        ep=ep,
        attention="separate",
        tables=tuple(found),
        graphs=Graphs(sizes=VLLM_GRAPHS) if engine == "vllm" else None,
        notes=tuple(job.notes),
        missing=tuple(job.missing),
    )


class AllReduce(NamedTuple):
    """The all-reduces of a model, and whose they are: engine or library, version, file."""

    table: Table
    label: str


def all_reduce(
    folder: Path | str, model: ModelSpec, chip: GpuSpec, tp: int, version: str = ""
) -> AllReduce:
    """Those of vLLM's tables below *folder* alone, for a profile of other tables that lacks them.

    Args:
        folder, version: see `read`.

    Raises:
        InputError: no such tables.
    """
    tables = _tables_of(folder, chip, "vllm", version)
    points = tables.all_reduce()
    if points is None:
        raise InputError(f"no all-reduces for {tables.system}", where=str(folder))
    job = _Import(tables, model, chip, tp, 1, "bfloat16", "bf16", 0.0)
    return AllReduce(job.all_reduces()[0], points.label)


def system_of(chip: GpuSpec, systems: Iterable[str]) -> str | None:
    """What aiconfigurator calls *chip* among *systems*, e.g. "a100_sxm"; None: nothing."""
    return next((name for name in sorted(systems) if _gpu_of(name) == chip.name), None)


def _gpu_of(system: str) -> str:
    """A system by our catalogue's name, where it has one."""
    name = system.replace("_", "-")
    try:
        return gpu_named(name).name
    except UnknownNameError:
        return name


def _tables_of(folder: Path | str, chip: GpuSpec, engine: str, version: str) -> Tables:
    tables = Tables(Path(folder), "", engine, version)
    systems = tables.systems()
    system = system_of(chip, systems)
    if system is None:
        raise InputError(
            f"no table for {chip.name}",
            where=str(folder),
            help=f"systems in it: {', '.join(systems) or 'none'}",
        )
    return tables.of(system)


def _check_model(model: ModelSpec, tp: int, ep: int) -> None:
    if model.is_mla:
        raise InputError(f"{model.name} has latent attention, which is not imported", where="model")
    if model.sliding_window:
        raise InputError(f"{model.name} has sliding windows, which are not imported", where="model")
    if ep < 1 or (tp % ep and ep % tp) or (ep > 1 and model.experts % ep):
        raise InputError(
            f"ep {ep} does not divide tp {tp} (nor is a multiple), or {model.experts} experts",
            where="ep",
        )


@dataclass
class _Import:
    """One import under way; the last four fields are what it finds out."""

    source: Tables
    model: ModelSpec
    gpu: GpuSpec
    tp: int
    ep: int
    gemm_dtype: str
    kv_dtype: str
    skew: float
    labels: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    device: str = ""

    def tables(self) -> list[Table]:
        """Every table that can be made; `missing` then names the others."""
        found = [*self._products(), *self._attention()]
        if self.model.experts:
            found += self._experts()
        if self.tp > 1:
            found += self.all_reduces()
        self.missing.append("sampler")
        return [*found, *self._elementwise()]

    def _elementwise(self) -> list[Table]:
        """What the tables lack: launches that read and write rows of half precision."""
        m = self.model
        rotated = (m.heads // self.tp + parameters.kv_heads_per_gpu(m, self.tp)) * m.head_dim
        shared = m.shared_experts * m.moe_ffn * m.moe_layers
        activated = (m.ffn * (m.layers - m.moe_layers) + shared) // (m.layers * self.tp)
        wanted = [  # operation, numbers read and written for a token, launches
            ("embedding", 2 * m.hidden, 1),
            ("norm", 2 * m.hidden, 2 * m.layers),
            ("final_norm", 2 * m.hidden, 1),
            ("rope", 2 * rotated, m.layers),
            ("qk_norm", 2 * rotated, m.layers if m.qk_norm else 0),
            ("act", 3 * activated, m.layers),
        ]
        fit = fit_op("rows", {}, [], Device.of(self.gpu))
        spans: dict[Axis, Span] = {"tokens": Span("rows", 1, _MOST_TOKENS)}
        return [
            self._table(fit, op, spans, {"row_bytes": float(numbers * HALF_BYTES)}, times)
            for op, numbers, times in wanted
            if numbers and times
        ]

    def _products(self) -> list[Table]:
        """Matrix products of the layers, by tokens, and the LM head, by sequences."""
        m = self.model
        layers = [g for g in parameters.gemms(m, self.tp) if g.copies == 1]
        wanted = [
            (g.name.replace(" ", "_"), g.outputs, g.inputs, g.quantised, g.where) for g in layers
        ]
        wanted.append(("lm_head", -(-m.vocab // self.tp), m.hidden, False, "head"))
        found: list[Table] = []
        for quantised in (True, False):
            some = [w for w in wanted if w[3] is quantised]
            dtype = self.gemm_dtype if quantised else "bfloat16"
            width = 2.0 if dtype == "bfloat16" else 1.0
            shapes = [{"n": n, "k": k, "weight_bytes": width} for _, n, k, _, _ in some]
            fit = self._fit(lambda t, dtype=dtype: t.gemm(dtype), shapes, dtype)  # type: ignore[misc]
            if fit is None:
                self.missing += [w[0] for w in some]
                continue
            for (op, *_, where), shape in zip(some, shapes, strict=True):
                is_head = where == "head"
                times = 1 if is_head else parameters.layers_where(m, where, 0, m.layers)
                axis: Axis = "sequences" if is_head else "tokens"
                span = Span("m", 1, _MOST_SEQUENCES if is_head else _MOST_TOKENS)
                found.append(self._table(fit, op, {axis: span}, shape, times))
        return found

    def _attention(self) -> list[Table]:
        m = self.model
        heads = {
            "heads": float(m.heads // self.tp),
            "kv_heads": float(parameters.kv_heads_per_gpu(m, self.tp)),
            "head_dim": float(m.head_dim),
            "kv_bytes": 1.0 if self.kv_dtype == "fp8" else 2.0,
        }
        kv = "fp8" if self.kv_dtype == "fp8" else "bfloat16"
        context = min(m.max_pos, _MOST_CONTEXT)
        decode = self._fit(lambda t: t.decode(kv, m.head_dim), [heads], "bfloat16")
        prefill = self._fit(lambda t: t.prefill(kv, m.head_dim), [heads], "bfloat16")
        found: list[Table] = []
        spans: dict[Axis, Span] = {
            "decodes": Span("batch", 1, _MOST_DECODES, VLLM_GRAPHS[:11]),
            "context_tokens": Span("context", 1, context),
        }
        chunks: dict[Axis, Span] = {
            "chunk": Span("chunk", 1, _MOST_TOKENS),
            "prefix": Span("prefix", 0, context),
        }
        for op, fit, axes in (
            ("decode_attention", decode, spans),
            ("prefill_attention", prefill, chunks),
        ):
            if fit is None:
                self.missing.append(op)
                continue
            fixed = heads if op == "decode_attention" else {**heads, "batch": 1.0}
            found.append(self._table(fit, op, axes, fixed, m.layers))
        return found

    def _experts(self) -> list[Table]:
        m = self.model
        shape = {
            "hidden": float(m.hidden),
            "inter": float(m.moe_ffn),
            "experts": float(m.experts),
            "top_k": float(m.top_k),
            "tp": float(max(1, self.tp // self.ep)),
            "ep": float(self.ep),
            "skew": self.skew,
            "weight_bytes": 2.0 if self.gemm_dtype == "bfloat16" else 1.0,
        }
        fit = self._fit(lambda t: t.moe(self.gemm_dtype), [shape], self.gemm_dtype)
        if fit is None:
            self.missing.append("moe")
            return []
        self.notes.append(f"experts are chosen by a power law of exponent {self.skew:g}")
        span = Span("tokens", 1, _MOST_TOKENS)
        return [self._table(fit, "moe", {"tokens": span}, shape, m.moe_layers)]

    def all_reduces(self) -> list[Table]:
        """By bytes; none where no system has a table."""
        shape = {"gpus": float(self.tp)}
        fit = self._fit(lambda t: t.all_reduce(), [shape], "bfloat16")
        if fit is None:
            self.missing.append("all_reduce")
            return []
        row = self.model.hidden * HALF_BYTES
        span = Span("bytes", min(row, 256), row * _MOST_TOKENS)
        return [self._table(fit, "all_reduce", {"bytes": span}, shape, 2 * self.model.layers)]

    def _fit(
        self,
        points_of: Callable[[Tables], Points | None],
        shapes: list[dict[str, float]],
        arithmetic: str,
    ) -> OpFit | None:
        """A fit to the rows of this system, or of another, that are nearest to *shapes*."""
        compute = "bf16" if arithmetic == "bfloat16" else "fp8"
        points = points_of(self.source)
        if points is not None:
            self.labels.add(points.label)
            self.device = self.device or points.device
            return _fitted(points, shapes, Device.of(self.gpu, compute))
        for system in self.source.systems():
            name = _gpu_of(system)
            points = points_of(self.source.of(system)) if name in names("gpu") else None
            if points is not None:
                self.labels.add(points.label)
                self.notes.append(f"{points.kind} is carried over from {name}: {points.label}")
                fit = _fitted(points, shapes, Device.of(gpu_named(name), compute))
                return fit.on(Device.of(self.gpu, compute))
        return None

    def _table(
        self,
        fit: OpFit,
        op: str,
        spans: dict[Axis, Span],
        fixed: dict[str, float],
        times: int,
    ) -> Table:
        sigma = _SIGMAS.get(fit.kind.name, _DATASHEET_SIGMA)
        if fit.is_carried_over:
            sigma = hypot(sigma, _TRANSFER_SIGMA)
        return densify(fit, op, spans, fixed, times=times, sigma=round(sigma, 4))


def _fitted(points: Points, shapes: list[dict[str, float]], device: Device) -> OpFit:
    """A fit to the rows of the shapes that are nearest to any of *shapes*."""
    kind = kind_named(points.kind)
    rows = kind.matrix(kind.read(points.columns), kind.shape)
    there, which = np.unique(rows, axis=0, return_inverse=True)
    place = np.log2(np.maximum(there, 0.5))
    chosen: set[int] = set()
    for shape in shapes:
        at = np.log2(np.maximum([shape[name] for name in kind.shape], 0.5))
        far = np.abs(place - at).sum(axis=1)
        chosen.update(np.argsort(far, kind="stable")[:_NEAREST_SHAPES].tolist())
    kept = np.isin(which.ravel(), sorted(chosen))
    columns = {name: values[kept] for name, values in points.columns.items()}
    return fit_op(points.kind, columns, points.seconds[kept], device)
