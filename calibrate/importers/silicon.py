"""A profile by asking an installed aiconfigurator-core, operation by operation, on a grid.

The package (pip install aiconfigurator-core, Apache-2.0) carries its tables and answers a step in
a few microseconds; what it answers is its own interpolation, so no point is graded measured. Its
element-wise times are a rule of thumb, graded datasheet. It has no rotary embedding, no norm of
queries and keys, and no sampler: these are named as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import import_module, resources
from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import Any, NamedTuple

from ...policies.errors import InputError, UnknownNameError
from ...scenarios.catalog.load import gpu as gpu_named
from ...scenarios.catalog.load import model as model_named
from ...sim.cost.dtypes import HALF_BYTES, kv_element_bytes
from ...sim.cost.ops import Axis
from ...sim.cost.profile import GRADES, Grade, Graphs, Profile, Stamp, Table
from ...sim.cost.specs import GpuSpec, ModelSpec, Parallelism
from .aiconfigurator import ENGINES, LICENCE, VLLM_GRAPHS, system_of

PACKAGE = "aiconfigurator_core"

_QUANTISATION = {"bf16": "bfloat16", "fp8": "fp8"}
#: where an answer comes from -> how we grade it; anything else is carried over from other shapes
_GRADES: dict[str, Grade] = {"silicon": "interpolated", "empirical": "datasheet"}
#: operation -> theirs that make it up, and its launches in a layer; 0 is one launch a step
_PARTS: dict[str, tuple[tuple[str, ...], int]] = {
    "embedding": (("embedding",), 0),
    "norm": (("add_norm_1", "add_norm_2"), 2),
    "qkv": (("qkv_gemm",), 1),
    "o": (("proj_gemm",), 1),
    "router": (("router_gemm",), 1),
    "gate_up": (("gate_ffn1_gemm",), 1),
    "act": (("act_gate",), 1),
    "down": (("ffn2_gemm",), 1),
    "moe": (("moe",), 1),
    "all_reduce": (("ar_1", "ar_2", "moe_pre_dispatch", "moe_post_dispatch"), 2),
}
_TOKENS = (*range(1, 17), *range(24, 513, 8), *range(576, 16_385, 64))
_SEQUENCES = (*range(1, 17), *range(24, 513, 8), 768, 1024)
_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_CHUNKS = (1, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16_384)
_CONTEXTS = tuple(sorted({2**i for i in range(18)} | {3 * 2**i for i in range(4, 16)}))


class _Answer(NamedTuple):
    seconds: float
    grade: Grade


def is_installed() -> bool:
    """Whether aiconfigurator-core is there."""
    return find_spec(PACKAGE) is not None


def read(
    path: str,
    *,
    model: str,
    gpu: str,
    tp: int = 1,
    ep: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "vllm",
    version: str = "",
) -> Profile:
    """The profile of *model* on *gpu*, as aiconfigurator-core answers it.

    Args:
        path: its name of the model, e.g. "meta-llama/Meta-Llama-3.1-8B".
        version: of the engine, one that it has tables of, e.g. "0.24.0"; "" for its newest.

    Raises:
        InputError: the package is not installed, or it cannot describe this.
        UnknownNameError: an unknown model, path, GPU, dtype or engine.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    spec, chip = model_named(model), gpu_named(gpu)
    spec.check(Parallelism(tp))
    if spec.is_mla or spec.sliding_window or spec.shared_experts:
        raise InputError(
            f"{spec.name} has latent or windowed attention or shared experts: not imported",
            where="model",
        )
    form = spec.format(dtype).name
    if form not in _QUANTISATION:
        raise UnknownNameError("dtype", form, _QUANTISATION, where="dtype")
    kv = "fp8" if kv_element_bytes(kv_dtype) == 1 else "bf16"
    quantised = _QUANTISATION[form]
    choice = {
        "tp_size": tp,
        "moe_tp_size": max(1, tp // ep),
        "moe_ep_size": ep,
        "gemm_quant_mode": quantised,
        "moe_quant_mode": quantised,
        "kvcache_quant_mode": _QUANTISATION[kv],
        "fmha_quant_mode": "bfloat16",
        "backend_version": version or None,
    }
    asked = _Asked(_compile(path, chip, engine, choice), spec, tp)
    tables = tuple(asked.tables())
    names = {table.op for table in tables}
    lacking = ["rope", "final_norm", "sampler", *(["qk_norm"] if spec.qk_norm else [])]
    return Profile(
        name=f"{spec.name} {form} tp{tp} on {chip.name}, {engine} by aiconfigurator-core",
        stamp=Stamp(
            origin="imported",
            gpu=chip.name,
            engine=f"{engine} {version}".strip(),
            created=datetime.now(UTC).date().isoformat(),
            source=f"{PACKAGE} {_version()}, {path}",
            licence=LICENCE,
        ),
        model=spec.name,
        dtype=form,
        kv_dtype=kv,
        tp=tp,
        ep=ep,
        attention="separate",
        tables=tables,
        graphs=Graphs(sizes=VLLM_GRAPHS) if engine == "vllm" else None,
        notes=tuple(asked.notes()),
        missing=tuple(op for op in lacking if op not in names),
    )


def _version() -> str:
    try:
        return version_of("aiconfigurator-core")
    except ModuleNotFoundError:
        return "(version unknown)"


def _compile(path: str, chip: GpuSpec, engine: str, choice: dict[str, Any]) -> Any:
    """An engine handle of the package.

    Raises:
        InputError, UnknownNameError: see `read`.
    """
    if not is_installed():
        raise InputError(
            "aiconfigurator-core is not installed",
            help="pip install aiconfigurator-core, or import its parquet tables from a folder",
        )
    configs = resources.files(PACKAGE).joinpath("model_configs")
    known = [
        item.name.removesuffix("_config.json").replace("--", "/", 1)
        for item in configs.iterdir()
        if item.name.endswith("_config.json") and not item.name.endswith("_quant_config.json")
    ]
    if path not in known:  # it would look for it on the network
        raise UnknownNameError("model of aiconfigurator-core", path, known)
    data = resources.files(PACKAGE).joinpath("systems", "data")
    systems = sorted(item.name for item in data.iterdir())
    system = system_of(chip, systems)
    if system is None:
        raise InputError(
            f"aiconfigurator-core has no tables for {chip.name}",
            help=f"systems in it: {', '.join(systems)}",
        )
    handle = import_module(f"{PACKAGE}.sdk.engine").EngineHandle
    try:
        return handle.compile(path, system, engine, **choice)
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"aiconfigurator-core refuses: {error}", where=path) from None


class _Asked:
    """The answers of one engine handle, as tables."""

    def __init__(self, handle: Any, model: ModelSpec, tp: int) -> None:
        self.handle, self.model, self.tp = handle, model, tp
        context, generation = handle.run_static_per_op(batch_size=1, isl=64, osl=2)
        self._context, self._generation = range(len(context)), range(len(generation))
        self._known = {part for parts, _ in _PARTS.values() for part in parts}
        self._ignored: set[str] = set()

    def tables(self) -> Iterable[Table]:
        """Every operation that takes any time."""
        by_tokens = {tokens: self._at_tokens(tokens) for tokens in _TOKENS}
        for op, (parts, per_layer) in _PARTS.items():
            times = per_layer * self.model.layers or 1
            rows = [
                (float(tokens), answer)
                for tokens, answers in by_tokens.items()
                if (answer := _sum(answers, parts, times)) is not None
            ]
            if not any(answer.seconds for _, answer in rows):
                continue
            axis: Axis = "tokens"
            if op == "all_reduce":
                axis, row = "bytes", self.model.hidden * HALF_BYTES
                rows = [(tokens * row, answer) for tokens, answer in rows]
            yield _table(op, times, (axis,), [((at,), answer) for at, answer in rows])
        yield from self._heads_and_attention()

    def notes(self) -> list[str]:
        """What of its answers is not in the tables."""
        if not self._ignored:
            return []
        return [f"left out, no operation of ours: {', '.join(sorted(self._ignored))}"]

    def _heads_and_attention(self) -> Iterable[Table]:
        layers = self.model.layers
        head = [
            ((float(n),), answer)
            for n in _SEQUENCES
            if (answer := _sum(self._decode(n, 64), ("logits_gemm",), 1)) is not None
        ]
        yield _table("lm_head", 1, ("sequences",), head)
        contexts = [c for c in _CONTEXTS if c <= self.model.max_pos]
        decode = [
            ((float(n), float(c)), answer)
            for n in _BATCHES
            for c in contexts
            if (answer := _sum(self._decode(n, c), ("attention",), layers)) is not None
        ]
        yield _table("decode_attention", layers, ("decodes", "context_tokens"), decode)
        prefill = [
            ((float(n), float(before)), answer)
            for n in _CHUNKS
            for before in (0, *(c for c in contexts if c >= 128))
            if (answer := _sum(self._at_tokens(n, before), ("attention",), layers)) is not None
        ]
        yield _table("prefill_attention", layers, ("chunk", "prefix"), prefill)

    def _at_tokens(self, tokens: int, prefix: int = 0) -> dict[str, tuple[float, str]]:
        found = self.handle.evaluate_context_ops(
            list(self._context), batch_size=1, s=tokens, prefix=prefix
        )
        return self._named(found)

    def _decode(self, batch: int, context: int) -> dict[str, tuple[float, str]]:
        found = self.handle.evaluate_generation_ops(
            list(self._generation), batch_size=batch, s=context
        )
        return self._named(found)

    def _named(self, found: Any) -> dict[str, tuple[float, str]]:
        """Milliseconds and source by name without its phase."""
        named = {name.partition("_")[2]: (ms, source) for name, ms, _, source in found}
        handled = self._known | {"attention", "logits_gemm"}
        self._ignored |= {name for name, (ms, _) in named.items() if ms and name not in handled}
        return named


def _sum(
    answers: dict[str, tuple[float, str]], parts: tuple[str, ...], times: int
) -> _Answer | None:
    """Seconds of one launch, and the worst grade; None where none of the parts is there."""
    there = [answers[part] for part in parts if part in answers]
    if not there:
        return None
    grades = [_GRADES.get(source, "transferred") for _, source in there]
    return _Answer(sum(ms for ms, _ in there) / 1e3 / times, max(grades, key=GRADES.index))


def _table(
    op: str, times: int, by: tuple[Axis, ...], rows: Sequence[tuple[tuple[float, ...], _Answer]]
) -> Table:
    return Table(
        op=op,
        times=times,
        by=by,
        points=tuple((*at, answer.seconds) for at, answer in rows),
        grades=tuple(answer.grade for _, answer in rows),
    )
