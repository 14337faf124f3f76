"""Putting a profile together, with its stamp and what it does not hold."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...policies.errors import InputError
from ...sim.cost.ops import OPS
from ...sim.cost.profile import SAMPLES, Capacity, Profile, Stamp, Table, hash_file
from ...sim.cost.specs import GpuSpec
from ..fit import densify
from ..measure.point import Point
from ..measure.shapes import Shapes
from ..measure.stats import Summary, summarize
from ..measure.store import Store, read, specs_of
from .fitted import Fitted, fit_all
from .quality import Quality, qualities, sigma
from .steps import StepFit, fit_steps

_REQUIRED = ("decode_attention", "prefill_attention")


class Assembled(NamedTuple):
    """A profile, and what its making said.

    Attributes:
        fitted, qualities: by op.
        steps: None where too few whole steps were measured.
        measured: every point with its median.
    """

    profile: Profile
    gpu: GpuSpec
    fitted: dict[str, Fitted]
    qualities: dict[str, Quality]
    steps: StepFit | None
    measured: dict[Point, Summary]


def assemble(
    store: Store,
    shapes: Shapes,
    *,
    drift: float,
    notes: Sequence[str] = (),
    left_out: bool = False,
    version: str = "",
) -> Assembled:
    """The profile of what *store* holds.

    Args:
        drift: of the anchors over the run, relative.
        notes: put before its own.
        left_out: also foretell every point without it.
        version: of infersim, for the stamp.

    Raises:
        InputError: not even attention was measured.
    """
    measured = {point: summarize(samples) for point, samples in store.by_point().items()}
    _, gpu = specs_of(store.identity)
    fitted = fit_all(measured, shapes, gpu)
    lacking = [op for op in _REQUIRED if op not in fitted]
    if lacking:
        raise InputError(
            f"too little was measured for a profile: no {lacking[0]}",
            where=str(store.folder),
            help="measure on: the same command with more --minutes continues",
        )
    good = qualities(fitted, left_out=left_out)
    on_gpu = store.identity["kind"] == "cuda"
    steps = fit_steps(measured, fitted, shapes, on_gpu=on_gpu)
    tables = [_table(one, good[op], drift) for op, one in fitted.items()]
    profile = Profile(
        name=f"{shapes.model.name} {shapes.dtype} on {gpu.name}, tp {shapes.tp}",
        stamp=stamp(store.identity, version),
        model=shapes.model.name,
        dtype=shapes.dtype,
        kv_dtype=shapes.kv_dtype,
        tp=shapes.tp,
        attention="separate",
        tables=tuple(tables),
        graphs=steps.graphs if steps else None,
        host=steps.host.model_copy(update={"pace_s": store.pace_s()}) if steps else None,
        capacity=_capacity(store.facts, shapes),
        samples_sha256=hash_file(store.folder / SAMPLES),
        notes=(*notes, *_notes(store, shapes, measured, good, steps)),
        missing=_missing(shapes, tables),
    )
    return Assembled(profile, gpu, fitted, good, steps, measured)


def of_samples(folder: Path) -> tuple[Store, Shapes]:
    """The samples in *folder*, and the shapes that they were measured for.

    Raises:
        InputError: they cannot be read.
    """
    identity, facts, samples = read(folder / SAMPLES)
    model, _ = specs_of(identity)
    shapes = Shapes(
        model,
        identity["dtype"],
        identity["kv_dtype"],
        identity["tp"],
        identity["kind"] == "cpu",
        *(int(identity[name]) for name in ("block_size", "budget", "max_seqs", "max_tokens")),
    )
    return Store(folder, identity, facts, samples), shapes


def stamp(identity: dict[str, Any], version: str) -> Stamp:
    """The stamp of a measured profile."""
    told = ("gpu", "driver", "cuda", "torch", "triton", "kernels")
    return Stamp(
        origin="measured",
        device=identity["name"],
        engine="infersim executor",
        created=dt.datetime.now(dt.UTC).date().isoformat(),
        infersim=version,
        **{name: str(identity[name]) for name in told},
    )


def _table(one: Fitted, quality: Quality, drift: float) -> Table:
    return densify(
        one.fit,
        one.op,
        one.spans,
        one.fixed,
        times=one.times,
        sigma=sigma(quality, drift),
        note=one.note,
    )


def _capacity(facts: dict[str, float], shapes: Shapes) -> Capacity | None:
    """KV blocks from the free memory that was seen with the model loaded."""
    blocks = int(facts.get("kv_blocks", 0))
    if not blocks:
        return None
    return Capacity(
        kv_blocks=blocks,
        block_size=shapes.block_size,
        max_num_batched_tokens=shapes.budget,
        max_num_seqs=shapes.max_seqs,
        memory_fraction=facts["memory_fraction"],
        note="from free memory with the model loaded and its largest step computed",
    )


def _missing(shapes: Shapes, tables: Sequence[Table]) -> tuple[str, ...]:
    """Ops that the model's steps have and that no table tells."""
    m = shapes.model
    wanted = {*shapes.dense_gemms(), "embedding", "norm", "final_norm", "rope", "lm_head"}
    wanted |= {"sampler", *_REQUIRED}
    wanted |= {"qk_norm"} if m.qk_norm else set()
    wanted |= {"act"} if m.ffn else set()
    wanted |= {"moe"} if m.experts else set()
    wanted |= {"all_reduce"} if shapes.tp > 1 else set()
    have = {table.op for table in tables}
    return tuple(op for op in OPS if op in wanted - have)


def _notes(
    store: Store,
    shapes: Shapes,
    measured: dict[Point, Summary],
    good: dict[str, Quality],
    steps: StepFit | None,
) -> list[str]:
    notes = []
    if shapes.wide:
        threads = store.identity["threads"]
        notes.append(f"measured on a CPU in fp32 with {threads} thread(s): no GPU's times")
        off = len(store.off_pace())
        if off:
            notes.append(f"{off} of {len(measured)} points: only at another pace of the host")
    if shapes.tp > 1 and "all_reduce" not in good:
        notes.append("all-reduce was not measured: it comes from the link model, uncalibrated")
    for op, quality in good.items():
        if quality.uneven is not None and abs(quality.uneven) > 0.02:
            notes.append(
                f"{op}: batches of uneven lengths took {quality.uneven:+.1%} against the table"
            )
    if steps is None:
        notes.append("too few whole steps were measured: the host's terms are the roofline's")
    else:
        notes.extend(steps.notes)
    return notes + _transfers(measured)


def _transfers(measured: dict[Point, Summary]) -> list[str]:
    """The best rate of every kind of copy, in one line each."""
    best: dict[str, tuple[float, Point]] = {}
    for point, summary in measured.items():
        if point.op.startswith(("copy_", "gather_", "scatter_")) and summary.median_s > 0:
            rate = point.bytes / summary.median_s
            if rate > best.get(point.op, (0.0, point))[0]:
                best[point.op] = rate, point
    return [
        f"{op}: {rate / 1e9:.3g} GB/s at best ({point.by[0]} {point.at[0]:,})"
        for op, (rate, point) in best.items()
    ]
