"""Rows of a catalogue: which keys each kind has, and how their values become specs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...policies.errors import InputError, UnknownNameError
from ...sim.cost.specs import GpuSpec, LinkSpec, ModelSpec, VisionSpec

GIB = 2**30
CONFIDENCES = ("high", "medium", "low")

Where = Callable[[str], str]  #: key -> "file:line  key", for messages


class Key(NamedTuple):
    """One key of a row.

    Attributes:
        name: as typed in YAML.
        field: of the spec; "" for a key that only documents or checks.
        kind: "text", "flag", "count" (an integer from 0), "number" (from 0), "names" or "vision".
        scale: what one of the YAML's unit is in the spec's unit.
        required: whether a row must have it.
    """

    name: str
    field: str
    kind: str
    scale: float = 1
    required: bool = False


def _keys(kind: str, *names: str, required: bool = False) -> list[Key]:
    return [Key(name, name, kind, 1, required) for name in names]


_COMMON = [
    Key("aliases", "", "names"),
    Key("name", "", "text"),
    Key("source", "source", "text"),
    Key("confidence", "confidence", "text"),
]
GPU = [
    *_COMMON,
    *_keys("text", "vendor", "arch", "compute_capability", "form", "memory_type"),
    *_keys("count", "sms", "node_gpus"),
    *_keys("number", "tdp_w", "memory_gb"),
    Key("l2_mb", "l2_bytes", "count", 2**20),
    Key("bf16_tflops", "bf16_flops", "number", 1e12, required=True),
    Key("fp8_tflops", "fp8_flops", "number", 1e12),
    Key("fp4_tflops", "fp4_flops", "number", 1e12),
    Key("int8_tops", "int8_ops", "number", 1e12),
    Key("memory_gib", "memory_bytes", "number", GIB, required=True),
    Key("memory_gbytes_per_s", "memory_bytes_per_s", "number", 1e9, required=True),
    Key("scaleup_gbytes_per_s", "scaleup_bytes_per_s", "number", 1e9, required=True),
    Key("pcie_gbytes_per_s", "pcie_bytes_per_s", "number", 1e9, required=True),
    Key("nic_gbytes_per_s", "nic_bytes_per_s", "number", 1e9, required=True),
    Key("measured_bf16_tflops", "measured_bf16_flops", "number", 1e12),
    Key("measured_copy_gbytes_per_s", "measured_copy_bytes_per_s", "number", 1e9),
]
LINK = [
    *_COMMON,
    Key("latency_us", "latency_s", "number", 1e-6, required=True),
    Key("gbytes_per_s", "bandwidth_bytes_per_s", "number", 1e9, required=True),
]
MODEL = [
    *_COMMON[:-1],
    Key("confidence", "", "text"),
    *_keys("count", "hidden", "layers", "heads", "kv_heads", required=True),
    *_keys("count", "head_dim", "vocab", "max_pos", required=True),
    *_keys("count", "ffn", "sliding_window", "sliding_layers"),
    *_keys("count", "experts", "top_k", "shared_experts", "moe_ffn", "first_dense_layers"),
    *_keys("count", "q_lora", "kv_lora", "qk_nope", "qk_rope", "v_head"),
    *_keys("count", "index_heads", "index_head_dim", "index_top_k"),
    *_keys("flag", "tie_embed", "qk_norm", "attn_bias"),
    *_keys("number", "rope_theta"),
    *_keys("text", "architecture", "native_dtype"),
    Key("vision", "vision", "vision"),
    Key("parameters_b", "", "number"),
    Key("active_b", "", "number"),
    Key("kv_bytes_per_token", "", "count"),
]
VISION = [
    *_keys("count", "layers", "hidden", "heads", "ffn", required=True),
    *_keys("count", "merge", "patch", "mergers", "positions", "window", "full_layers"),
    *_keys("flag", "gated"),
]


def gpu_spec(name: str, row: dict[str, Any], where: Where) -> GpuSpec:
    """The GPU of a checked row."""
    values = _read(row, GPU, where)
    _positive(values, ("bf16_flops", "memory_bytes", "memory_bytes_per_s"), GPU, where)
    _positive(values, ("scaleup_bytes_per_s", "nic_bytes_per_s", "node_gpus"), GPU, where)
    values["memory_bytes"] = round(values["memory_bytes"])
    return GpuSpec(name=name, **values)


def link_spec(name: str, row: dict[str, Any], where: Where) -> LinkSpec:
    """The link of a checked row."""
    values = _read(row, LINK, where)
    _positive(values, ("bandwidth_bytes_per_s",), LINK, where)
    return LinkSpec(name=name, **values)


def model_spec(name: str, row: dict[str, Any], where: Where) -> ModelSpec:
    """The model of a checked row; a stated parameter count must be that of the dimensions."""
    values = _read(row, MODEL, where)
    try:
        spec = ModelSpec(name=name, **values)
    except InputError as error:
        raise InputError(error.message, where=where(""), help=error.help) from None
    stated = row.get("parameters_b")
    if stated and abs(spec.parameters / 1e9 / stated - 1) > 0.01:
        raise InputError(
            f"the dimensions give {spec.parameters / 1e9:.2f} billion parameters, "
            f"parameters_b says {stated:g}",
            where=where("parameters_b"),
            help="correct a dimension, or leave parameters_b out",
        )
    return spec


def _read(row: dict[str, Any], keys: list[Key], where: Where) -> dict[str, Any]:
    known = {key.name: key for key in keys}
    for name in row:
        if name not in known:
            raise UnknownNameError("key", name, known, where=where(str(name)))
    values: dict[str, Any] = {}
    for key in keys:
        if key.name in row:
            value = _value(key, row[key.name], where)
            if key.field:
                values[key.field] = value
        elif key.required:
            raise InputError(f"missing key {key.name}", where=where(""))
    return values


def _value(key: Key, found: Any, where: Where) -> Any:
    if key.kind == "vision":
        if not isinstance(found, dict):
            raise _wrong(key, found, "a section of keys", where)
        return VisionSpec(**_read(found, VISION, lambda inner: where(f"{key.name}.{inner}")))
    if key.kind == "flag":
        return _typed(key, found, bool, "true or false", where)
    if key.kind == "names":
        return _typed(key, found, list, "a list of names", where)
    if key.kind == "text":
        text = _typed(key, found, str, "text", where)
        if key.name == "confidence" and text not in CONFIDENCES:
            raise UnknownNameError("confidence", text, CONFIDENCES, where=where(key.name))
        return text
    whole = key.kind == "count"
    if isinstance(found, bool) or not isinstance(found, int if whole else (int, float)):
        raise _wrong(key, found, "a whole number" if whole else "a number", where)
    if not 0 <= found < float("inf"):
        raise _wrong(key, found, "a finite number, not negative", where)
    return found * int(key.scale) if whole else found * key.scale


def _typed(key: Key, found: Any, kind: type, allowed: str, where: Where) -> Any:
    if not isinstance(found, kind):
        raise _wrong(key, found, allowed, where)
    return found


def _wrong(key: Key, found: Any, allowed: str, where: Where) -> InputError:
    return InputError(f"{key.name} must be {allowed}, found {found!r}", where=where(key.name))


def _positive(
    values: dict[str, Any], names: tuple[str, ...], keys: list[Key], where: Where
) -> None:
    for key in keys:
        if key.field in names and values.get(key.field) == 0:
            raise InputError(f"{key.name} must be above 0", where=where(key.name))
