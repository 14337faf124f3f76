"""A profile from a bundle of LLMServingSim 2 (MIT): tables measured inside of vLLM, layer by layer.

A bundle is a folder with ``meta.yaml`` and ``tpN/*.csv.gz``: operations by tokens (dense), the LM
head and the sampler by sequences, attention by (chunk, prefix, decodes, their mean KV), experts by
tokens and distinct experts. Times are microseconds of one launch on one GPU of the TP group.

Its attention is *one* kernel for prefill and decode: the profile is "mixed", and is interpolated
linearly (in log space it is 2 % worse). What it does not hold comes from the roofline: pipeline
hops, images, the host's work, and collectives unless aiconfigurator's tables give them. Its experts
are a block with the router, for the distinct experts that uniform routing would hit. Steps are
priced by the mean context of their decodes; what uneven contexts add (``skew.csv.gz``) is applied
where meta.yaml enables it.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ...policies.errors import InputError, UnknownNameError
from ...scenarios.catalog.load import gpu as gpu_named
from ...scenarios.catalog.load import model as model_named
from ...sim.cost.ops import OPS, Axis
from ...sim.cost.profile import Profile, Stamp, Table, Uneven
from ...sim.cost.specs import GpuSpec, ModelSpec, Parallelism
from .aiconfigurator import LICENCE as THEIRS
from .aiconfigurator import AllReduce, all_reduce
from .uneven import COLUMNS as _SKEW
from .uneven import fitted

SOURCE = "github:casys-kaist/LLMServingSim profiler/perf"
LICENCE = "MIT"
DECIMALS = 12  #: of seconds; the tables have nanoseconds

#: name in the bundle -> operation, launches a layer (0: once a step)
_LAYERS = {
    "embedding": ("embedding", 0),
    "layernorm": ("norm", 2),
    "qkv_proj": ("qkv", 1),
    "qk_norm": ("qk_norm", 1),
    "rotary_emb": ("rope", 1),
    "o_proj": ("o", 1),
    "gate_up_proj": ("gate_up", 1),
    "act_fn": ("act", 1),
    "down_proj": ("down", 1),
    "final_layernorm": ("final_norm", 0),
    "lm_head": ("lm_head", 0),
    "sampler": ("sampler", 0),
}
_ATTENTION = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")


def read(
    bundle: Path | str,
    *,
    model: str | None = None,
    gpu: str | None = None,
    tp: int = 1,
    uneven: bool | None = None,
    collectives: Path | str | None = None,
    version: str = "",
) -> Profile:
    """The profile that *bundle* holds for *tp* GPUs.

    Args:
        bundle: the folder with meta.yaml.
        model, gpu: names of the catalogue, or files; those of meta.yaml when left out.
        uneven: whether to apply what uneven contexts add; None: as meta.yaml says.
        collectives: a folder of aiconfigurator's tables, for the all-reduces that no bundle has.
        version: of the vLLM whose all-reduces they are, "" for the newest.

    Raises:
        InputError: no such bundle or TP degree, or tables that cannot be read; collectives of a
            single GPU.
        UnknownNameError: the catalogue has no such model or GPU.
    """
    folder = Path(bundle)
    meta = _meta(folder)
    spec: ModelSpec = model_named(model or _text(meta, "model", folder))
    card = gpu_named(gpu or _text(meta, "hardware", folder).lower())
    spec.check(Parallelism(tp))
    tables = folder / f"tp{tp}"
    if not tables.is_dir():
        there = sorted(path.name[2:] for path in folder.glob("tp[0-9]*"))
        raise InputError(
            f"the bundle has no tables for tp {tp}",
            where=str(folder),
            help=f"it has tp {', '.join(there)}",
        )
    sweep = _sweep(tables)
    applies = _corrects(meta) if uneven is None else uneven
    found = [*_dense(tables, spec), _attention(tables, spec), *_experts(tables, spec)]
    reduces = _all_reduces(collectives, spec, card, tp, version)
    if reduces is not None:
        found.append(reduces.table)
    return Profile(
        name=f"{spec.name} on {card.name}, tp {tp}, by LLMServingSim",
        stamp=Stamp(
            origin="imported",
            gpu=card.name,
            device=str(meta.get("gpu", "")),
            cuda=str(meta.get("cuda_version", "")),
            engine=f"vllm {meta.get('vllm_version', '')}".strip(),
            created=str(meta.get("profiled_at", ""))[:10],
            source=f"{SOURCE}/{folder.name}" + (f"; {reduces.label}" if reduces else ""),
            licence=f"{LICENCE}; all-reduces {THEIRS}" if reduces else LICENCE,
        ),
        model=spec.name,
        dtype=_dtype(meta, folder),
        kv_dtype="bf16",
        tp=tp,
        attention="mixed",
        tables=tuple(found),
        uneven=_uneven(sweep, meta, tp, folder) if applies else None,
        notes=(
            *_notes(meta, sweep, applies=applies),
            *_of_collectives(reduces, tp),
        ),
        missing=_missing(spec, {table.op for table in found}, tp),
    )


def _corrects(meta: dict[str, Any]) -> bool:
    """Whether the bundle's own simulator corrects for uneven contexts."""
    fit = meta.get("skew_fit")
    return isinstance(fit, dict) and fit.get("enabled") is True


def _sweep(folder: Path) -> list[list[float]]:
    """The bundle's batches of uneven contexts, where alpha is known; its columns but the regime."""
    path = folder / "skew.csv.gz"
    if not path.exists():
        return []
    rows = [row for row in _rows(path, _SKEW) if row[-1]]
    return [[_number(value, path) for value in row[1:]] for row in rows]


def _uneven(sweep: list[list[float]], meta: dict[str, Any], tp: int, folder: Path) -> Uneven:
    fit = meta.get("skew_fit")
    fit = fit if isinstance(fit, dict) else {}
    ranks = fit.get("per_tp")
    own = ranks.get(tp) if isinstance(ranks, dict) else None
    own = own if isinstance(own, dict) else {}
    axes = own.get("bucket_axes") or fit.get("bucket_axes")
    if not sweep:
        raise InputError(
            f"meta.yaml enables a correction for uneven contexts, and tp{tp} has no sweep of them",
            where=str(folder),
            help=f"it is in tp{tp}/skew.csv.gz",
        )
    return fitted(sweep, axes if isinstance(axes, dict) else None, str(folder))


def _all_reduces(
    folder: Path | str | None, model: ModelSpec, card: GpuSpec, tp: int, version: str
) -> AllReduce | None:
    """Those of aiconfigurator's tables, where a folder of them is named."""
    if folder is None:
        if version:
            raise InputError("it is that of the collectives", where="--version")
        return None
    if tp == 1:
        raise InputError("a single GPU reduces nothing", where="--collectives", help="--tp 2, …")
    return all_reduce(folder, model, card, tp, version)


def _of_collectives(reduces: AllReduce | None, tp: int) -> list[str]:
    if reduces is not None:
        return [f"imported: all-reduces measured on another host: {reduces.label}"]
    if tp > 1:
        return ["imported: the bundle has no collectives; α–β from the datasheet's link"]
    return []


def _notes(meta: dict[str, Any], sweep: list[list[float]], *, applies: bool) -> list[str]:
    iterations = meta.get("measurement_iterations", "few")
    found = [
        f"imported: {iterations} eager iterations a point in vLLM {meta.get('vllm_version', '')}, "
        "one layer with dummy weights; linear interpolation; one attention kernel for prefill and "
        "decode"
    ]
    if sweep:
        added = median(uneven / max(mean, 1e-9) - 1 for *_, mean, _, uneven, _ in sweep)
        found.append(
            "imported: priced by the mean context of the decodes; where contexts are uneven "
            f"attention took {added:.1%} longer in the median of the bundle's sweep: "
            + ("applied" if applies else "not applied")
        )
    return found


def _missing(model: ModelSpec, held: set[str], tp: int) -> tuple[str, ...]:
    wanted = ["moe"] if model.experts else []
    wanted += ["all_reduce"] if tp > 1 else []
    wanted += ["image"] if model.vision is not None else []
    return tuple(op for op in wanted if op not in held)


# ---- tables -------------------------------------------------------------------------------------


def _dense(folder: Path, model: ModelSpec) -> Iterator[Table]:
    for file, axis in (("dense", "tokens"), ("per_sequence", "sequences")):
        rows: dict[str, list[tuple[float, ...]]] = {}
        path = folder / f"{file}.csv.gz"
        for layer, at, time in _rows(path, ("layer", axis, "time_us")):
            rows.setdefault(layer, []).append((_number(at, path), _seconds(time, path)))
        for layer, points in rows.items():
            if layer not in _LAYERS:
                raise UnknownNameError("layer", layer, _LAYERS, where=str(path))
            op, launches = _LAYERS[layer]
            yield _table(op, max(1, launches * model.layers), OPS[op].axes[0], points)


def _attention(folder: Path, model: ModelSpec) -> Table:
    path = folder / "attention.csv.gz"
    points = [
        (*(_number(value, path) for value in at), _seconds(time, path))
        for *at, time in _rows(path, (*_ATTENTION, "time_us"))
    ]
    return _table("attention", model.layers, OPS["attention"].axes[0], points)


def _experts(folder: Path, model: ModelSpec) -> Iterator[Table]:
    path = folder / "moe.csv.gz"
    if not path.exists():
        return
    points = [
        (_number(tokens, path), _number(experts, path), _seconds(time, path))
        for tokens, experts, time in _rows(path, ("tokens", "activated_experts", "time_us"))
    ]
    yield _table("moe", model.moe_layers, ("tokens", "experts"), points)


def _table(op: str, times: int, by: tuple[Axis, ...], points: Sequence[tuple[float, ...]]) -> Table:
    return Table(op=op, times=times, by=by, points=tuple(sorted(points)))


# ---- files --------------------------------------------------------------------------------------


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.yaml"
    if not path.is_file():
        raise InputError(
            f"no bundle of LLMServingSim in {folder}: it has no meta.yaml",
            help="name the folder that holds meta.yaml and tp1, tp2, …",
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"it cannot be read: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise InputError("it must be a mapping of keys", where=str(path))
    return data


def _text(meta: dict[str, Any], key: str, folder: Path) -> str:
    if not isinstance(meta.get(key), str):
        raise InputError(
            f"meta.yaml does not say its {key}", where=str(folder), help="name it: --model, --gpu"
        )
    return str(meta[key])


def _dtype(meta: dict[str, Any], folder: Path) -> str:
    variant = str(meta.get("variant", "bf16"))
    if variant not in ("bf16", "fp8"):
        raise InputError(
            f'the variant "{variant}" is not known', where=str(folder), help="known: bf16, fp8"
        )
    return variant


def _rows(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a gzipped CSV file with exactly *columns*."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            head = next(reader, [])
            if head != list(columns):
                raise InputError(
                    f"found the columns {', '.join(head)}, expected {', '.join(columns)}",
                    where=str(path),
                )
            for row in reader:
                if len(row) != len(columns):
                    where = f"{path}:{reader.line_num}"
                    raise InputError(f"{len(columns)} values expected, found {row}", where=where)
                yield row
    except FileNotFoundError:
        raise InputError("the bundle lacks the file", where=str(path)) from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"it cannot be read: {error}", where=str(path)) from None


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f'found "{text}", a number is expected', where=str(path)) from None


def _seconds(text: str, path: Path) -> float:
    return round(_number(text, path) * 1e-6, DECIMALS)
