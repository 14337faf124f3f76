"""Every sample, on disk after each block: an interrupt loses no more than the block under way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import log
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ...policies.errors import InputError
from ...sim.cost.profile import PROFILE, SAMPLES
from ...sim.cost.specs import GpuSpec, ModelSpec, VisionSpec
from ..executor.pace import BAND, alike, prevailing
from .device import Device, Readings
from .point import Key, Point
from .shapes import Shapes

_META = b"infersim"
_HARDLY = 0.2  # of the points
#: what must agree before samples are put beside others; the rest only warns
_DECISIVE = (
    *("model", "dtype", "kv_dtype", "tp", "block_size"),
    *("gpu", "name", "kernels", "torch", "triton", "cuda", "threads"),
)
_TOLD = ("driver",)


class Sample(NamedTuple):
    """One timing.

    Attributes:
        round: in which round of its block; each goes over the points in another order.
        drift: how far the anchors moved during the round.
        kept: False where the round was repeated because of that: kept on disk, not fitted.
        pace_s: of the host around it (`executor.pace`); 0 where it changed meanwhile, and where it
            is not taken, as on a GPU.
    """

    point: Point
    round: int
    seconds: float
    drift: float
    kept: bool
    readings: Readings
    pace_s: float = 0.0


@dataclass
class Store:
    """The samples of one profile directory.

    Attributes:
        folder: where samples.parquet goes.
        identity: what they were measured with and for; see `identity_of`.
        facts: what was seen beside times, as the KV blocks that fit.
        samples: all of them, those of earlier runs first.
        warnings: what differs from the earlier runs without forbidding to go on.
    """

    folder: Path
    identity: dict[str, Any]
    facts: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, identity: dict[str, Any]) -> Store:
        """Start in *folder*, or go on with what is there.

        Raises:
            InputError: it holds something else, or samples of another device, model or version.
        """
        store = cls(folder, identity)
        file = folder / SAMPLES
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a directory", where="--out")
        if file.is_file():
            found, store.facts, store.samples = read(file)
            store._compare(found, file)
        elif folder.is_dir() and any(folder.iterdir()):
            raise InputError(
                f"{folder} holds something that calibrate did not measure",
                where="--out",
                help="name a new directory, or one that an earlier calibration wrote",
            )
        return store

    def rounds(self) -> dict[Key, int]:
        """How many rounds of each point are kept."""
        seen = {(s.point.key, s.round) for s in self.samples if s.kept}
        counts: dict[Key, int] = {}
        for key, _ in seen:
            counts[key] = counts.get(key, 0) + 1
        return counts

    def by_point(self) -> dict[Point, list[float]]:
        """Kept samples of each point, in the order in which points first came.

        On a CPU, which others use as well, only those of the quietest round at its prevailing
        pace: tables and whole steps are of one machine then, not some of a free core and some of a
        shared one. Where that is a free core's, rounds within which the pace changed count too:
        the quietest will not be those. Of a point without any, those at the nearest pace.
        """
        found: dict[Key, tuple[Point, list[Sample]]] = {}
        for sample in self.samples:
            if sample.kept:
                found.setdefault(sample.point.key, (sample.point, []))[1].append(sample)
        if self.identity["kind"] != "cpu":
            return {point: [s.seconds for s in samples] for point, samples in found.values()}
        pace_s = self.pace_s()
        wanted = (pace_s, 0.0) if self._free(pace_s) else (pace_s,)
        made = {}
        for point, samples in found.values():
            fitting = [s for s in samples if any(_same(s.pace_s, one) for one in wanted)]
            made[point] = _quietest(fitting or _nearest(samples, pace_s))
        return made

    def _free(self, pace_s: float) -> bool:
        """Whether hardly a point was ever measured on a faster host."""
        faster = {s.point.key for s in self.samples if s.kept and 0 < s.pace_s < pace_s / BAND}
        return len(faster) <= _HARDLY * len({s.point.key for s in self.samples if s.kept})

    def pace_s(self) -> float:
        """The host's pace that the tables are made at; 0 where it was not taken."""
        return prevailing((s.point.key, s.pace_s) for s in self.samples if s.kept)

    def off_pace(self) -> set[Key]:
        """Points that were only measured at another pace; none where it was not taken."""
        pace_s = self.pace_s()
        kept = [(s.point.key, alike(s.pace_s, pace_s)) for s in self.samples if s.kept and pace_s]
        return {key for key, _ in kept} - {key for key, at_it in kept if at_it}

    def add(self, samples: Iterable[Sample]) -> None:
        """Take note of samples; `flush` writes them."""
        self.samples.extend(samples)

    def flush(self) -> None:
        """Write samples.parquet, whole or not at all.

        Raises:
            InputError: it cannot be written; what was there still is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / SAMPLES, self.identity, self.facts, self.samples)

    def _compare(self, found: dict[str, Any], file: Path) -> None:
        for name in _DECISIVE:
            old, new = found.get(name), self.identity.get(name)
            if old != new:
                raise InputError(
                    f"{file.parent} was measured with {name} {old!r}, this is {new!r}: samples of "
                    "both do not go into one profile",
                    where=str(file),
                    help="measure into a new directory with --out",
                )
        for name in _TOLD:
            old, new = found.get(name), self.identity.get(name)
            if old != new:
                self.warnings.append(f"{name} was {old!r} and is {new!r} now; going on")


def _same(pace_s: float, wanted_s: float) -> bool:
    return alike(pace_s, wanted_s) or pace_s == wanted_s == 0


def _quietest(samples: Sequence[Sample]) -> list[float]:
    """Seconds of the round with the least median: whatever else disturbs can only add to a time."""
    rounds: dict[int, list[float]] = {}
    for sample in samples:
        rounds.setdefault(sample.round, []).append(sample.seconds)
    return min(rounds.values(), key=median)


def _nearest(samples: Sequence[Sample], pace_s: float) -> list[Sample]:
    """Those at the pace that is nearest to *pace_s*; all of them where none is known."""
    known = [s.pace_s for s in samples if s.pace_s > 0]
    if not known:
        return list(samples)
    found = min(known, key=lambda one: (abs(log(one / pace_s)), one))
    return [s for s in samples if alike(s.pace_s, found)]


def identity_of(device: Device, shapes: Shapes, gpu: GpuSpec) -> dict[str, Any]:
    """What samples are compared by when a run goes on, and what their shapes are made from."""
    of_device = {one.name: getattr(device, one.name) for one in fields(device)}
    numbers = ("dtype", "kv_dtype", "tp", "block_size", "budget", "max_seqs", "max_tokens")
    said = {name: getattr(shapes, name) for name in numbers}
    specs = {"model": asdict(shapes.model), "gpu": asdict(gpu)}  # may be in no catalogue
    return of_device | said | {"model": shapes.model.name, "specs": specs}


def specs_of(identity: dict[str, Any]) -> tuple[ModelSpec, GpuSpec]:
    """The model and the GPU that `identity_of` was given."""
    model, gpu = dict(identity["specs"]["model"]), identity["specs"]["gpu"]
    if model["vision"] is not None:
        model["vision"] = VisionSpec(**model["vision"])
    return ModelSpec(**model), GpuSpec(**gpu)


def write(
    file: Path, identity: dict[str, Any], facts: dict[str, float], samples: Sequence[Sample]
) -> None:
    """Write samples to *file*, whole or not at all."""
    import pyarrow.parquet

    pa: Any = pyarrow  # it ships without types
    points = [s.point for s in samples]
    columns = {
        "op": pa.array([p.op for p in points], pa.string()),
        "axes": pa.array([list(p.by) for p in points], pa.list_(pa.string())),
        "at": pa.array([list(p.at) for p in points], pa.list_(pa.int64())),
        "variant": pa.array([p.variant for p in points], pa.string()),
        "flops": pa.array([p.flops for p in points], pa.float64()),
        "bytes": pa.array([p.bytes for p in points], pa.float64()),
        "priority": pa.array([p.priority for p in points], pa.int8()),
        "round": pa.array([s.round for s in samples], pa.int16()),
        "seconds": pa.array([s.seconds for s in samples], pa.float64()),
        "drift": pa.array([s.drift for s in samples], pa.float32()),
        "kept": pa.array([s.kept for s in samples], pa.bool_()),
        "pace_s": pa.array([s.pace_s for s in samples], pa.float64()),
        **{
            name: pa.array([getattr(s.readings, name) for s in samples], pa.float32())
            for name in Readings._fields
        },
    }
    text = json.dumps({"identity": identity, "facts": facts}, sort_keys=True).encode()
    table = pa.table(columns).replace_schema_metadata({_META: text})
    partial = file.with_name(f".{file.name}.partial")
    try:
        pa.parquet.write_table(table, partial, compression="zstd")
        partial.replace(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def read(file: Path) -> tuple[dict[str, Any], dict[str, float], list[Sample]]:
    """(identity, facts, samples) of *file*.

    Raises:
        InputError: it is damaged, or no file of samples.
    """
    import pyarrow.parquet

    pa: Any = pyarrow  # it ships without types
    try:
        table = pa.parquet.read_table(file)
        said = json.loads((table.schema.metadata or {})[_META])
        identity, facts = said["identity"], said["facts"]
        rows = [_sample(row) for row in table.to_pylist()]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"not a readable file of samples: {str(error).splitlines()[0]}",
            where=str(file),
            help=f"delete it to measure again; a simulation needs {PROFILE} only",
        ) from None
    return identity, facts, rows


def _sample(row: dict[str, Any]) -> Sample:
    by, at = tuple(row["axes"]), tuple(row["at"])
    point = Point(row["op"], by, at, row["variant"], row["flops"], row["bytes"], row["priority"])
    told = Readings(*(row[name] for name in Readings._fields))
    pace_s = row.get("pace_s", 0.0)  # files of before have none
    return Sample(point, row["round"], row["seconds"], row["drift"], row["kept"], told, pace_s)
