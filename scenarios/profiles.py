"""The ``profile:`` of a pool: its step times, and KV blocks if measured with its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..policies.errors import InputError
from ..sim.cost.base import StepCost
from ..sim.cost.dtypes import kv_element_bytes, weight_format
from ..sim.cost.profile import PROFILE, Profile, load
from ..sim.cost.roofline import Roofline
from ..sim.cost.specs import GpuSpec, ModelSpec, Parallelism
from ..sim.cost.tables import TableCost
from .schema.engine import EngineSpec
from .schema.pool import PoolSpec

VLLM_MASK_THREADS = 8  #: v1/structured_output/__init__.py, on hosts of 16 cores and more


def folder_of(name: str, folders: Sequence[Path]) -> Path:
    """The profile directory *name* in the first of *folders* that has it.

    Raises:
        InputError: none has it.
    """
    found = next((folder / name for folder in folders if (folder / name).is_dir()), None)
    if found is None:
        raise InputError(
            f"no profile directory {name}",
            where="profile",
            help="`infersim calibrate` makes one; paths are relative to the scenario or the "
            "working directory",
        )
    return found


def profile_of(spec: PoolSpec, folders: Sequence[Path]) -> Profile | None:
    """The profile of a pool, read once a process; None where it names none.

    Raises:
        InputError: no such profile, or one that cannot be read.
    """
    if spec.profile is None:
        return None
    folder = folder_of(spec.profile, folders)
    file = folder / PROFILE
    state = file.stat() if file.is_file() else None
    return _loaded(folder, (state.st_mtime_ns, state.st_size) if state else None)


def cost_of(
    spec: PoolSpec,
    model: ModelSpec,
    gpu: GpuSpec,
    profile: Profile | None,
    factors: Mapping[str, float] | None = None,
) -> StepCost:
    """Step times of a pool: from *profile*, else the roofline.

    Args:
        factors: operation -> factor on its times, see `TableCost`.

    Raises:
        InputError: the profile is of another model, format, GPU or split.
    """
    split = Parallelism(spec.tp, spec.pp, spec.dp, spec.expert_parallel)
    overheads = spec.overheads
    if not overheads.bitmask_threads:
        threads = VLLM_MASK_THREADS if isinstance(spec.engine, EngineSpec) else 1
        overheads = replace(overheads, bitmask_threads=threads)
    if profile is None:
        return Roofline(model, gpu, split, spec.dtype, spec.kv_dtype, overheads)
    _check(spec, model, gpu, profile)
    return TableCost(
        profile,
        model,
        gpu,
        split,
        overheads,
        async_scheduling=spec.engine.async_scheduling,
        factors=factors,
    )


def kv_blocks(spec: PoolSpec, profile: Profile | None) -> tuple[int | None, str]:
    """(KV blocks that the engine printed, or None where its limits were others; a remark)."""
    if profile is None or profile.capacity is None:
        return None, ""
    capacity, engine = profile.capacity, spec.engine
    limits = (
        ("block_size", capacity.block_size, spec.block_size),
        ("max_num_batched_tokens", capacity.max_num_batched_tokens, engine.max_num_batched_tokens),
        ("max_num_seqs", capacity.max_num_seqs, engine.max_num_seqs),
        ("memory_fraction", capacity.memory_fraction, spec.memory_fraction),
    )
    other = [f"{name} {was or 'unknown'}" for name, was, now in limits if was != now]
    if other:
        return None, (
            f"pool {spec.name}: KV blocks are computed; the profile's {capacity.kv_blocks:,} were "
            f"measured with {', '.join(other)}"
        )
    return capacity.kv_blocks, ""


def _check(spec: PoolSpec, model: ModelSpec, gpu: GpuSpec, profile: Profile) -> None:
    """Refuse times of something else."""
    pairs = (
        ("model", profile.model, model.name),
        ("gpu", profile.stamp.gpu, gpu.name),
        ("dtype", weight_format(profile.dtype).name, model.format(spec.dtype).name),
        ("tp", profile.tp, spec.tp),
        ("pp", profile.pp, spec.pp),
    )
    for key, measured, asked in pairs:
        if measured != asked:
            raise InputError(
                f"the profile is of {key} {measured}, the pool of {asked}",
                where="profile",
                help=f"set {key}: {measured}, or take a profile of the pool's",
            )
    if kv_element_bytes(profile.kv_dtype) != kv_element_bytes(spec.kv_dtype):
        raise InputError(
            f"the profile is of kv_dtype {profile.kv_dtype}, the pool of {spec.kv_dtype}",
            where="profile",
            help=f"set kv_dtype: {profile.kv_dtype}, or take a profile of the pool's",
        )


@lru_cache(maxsize=8)
def _loaded(folder: Path, state: tuple[int, int] | None) -> Profile:
    return load(folder)
