"""A profile: the step times of one model on one GPU, in one directory, and where they come from.

``profile.json`` holds all that a simulation needs; ``samples.parquet`` beside it, where there is
one, the raw samples that it was made of.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...policies.errors import InputError, UnknownNameError
from .grades import GRADES as GRADES
from .grades import Grade as Grade
from .ops import OPS, Axis
from .profile_errors import explained

FORMAT: Final = "infersim-profile"
VERSION: Final = 1
PROFILE, SAMPLES = "profile.json", "samples.parquet"

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Stamp(_Strict):
    """What was measured, on what, with what, when.

    Attributes:
        origin: "measured" here, "imported" from tables that others published, or "fitted".
        gpu: its name in the catalogue.
        device: as its driver calls it.
        kernels: SHA-256 of the kernel sources.
        engine: whose kernels they are, as "infersim executor" or "vllm 0.19.0".
        created: ISO date.
        infersim: version that wrote the profile.
        source, licence: of imported tables.
    """

    origin: Literal["measured", "imported", "fitted"]
    gpu: str
    device: str = ""
    driver: str = ""
    cuda: str = ""
    torch: str = ""
    triton: str = ""
    kernels: str = ""
    engine: str = ""
    created: str = ""
    infersim: str = ""
    source: str = ""
    licence: str = ""


class Table(_Strict):
    """Seconds of one launch of an operation, at points of a grid that may be ragged.

    Attributes:
        op: one of `ops.OPS`.
        times: launches in a step: the layers, twice that for a norm, one for the LM head.
        by: names of the coordinates, e.g. ["decodes", "context_tokens"].
        points: [coordinates ..., seconds].
        grades: of each point, in the same order; None: all measured.
        sigma: relative standard deviation of the whole table's level: its bias, not its noise.
    """

    op: str
    times: Count
    by: tuple[Axis, ...]
    points: tuple[tuple[float, ...], ...] = Field(min_length=1)
    grades: tuple[Grade, ...] | None = None
    sigma: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        known = OPS.get(self.op)
        if known is None:
            raise UnknownNameError("op", self.op, OPS)
        if self.by not in known.axes:
            allowed = " or ".join("(" + ", ".join(axes) + ")" for axes in known.axes)
            raise InputError(f"{self.op} is a function of {allowed}, found by: {list(self.by)}")
        if self.grades is not None and len(self.grades) != len(self.points):
            raise InputError(
                f"{self.op} has {len(self.points)} points and {len(self.grades)} grades"
            )
        seen: set[tuple[float, ...]] = set()
        for i, point in enumerate(self.points):
            self._check(i, point)
            if point[:-1] in seen:
                raise InputError(f"{self.op} has two points at {list(point[:-1])}")
            seen.add(point[:-1])
        return self

    def _check(self, i: int, point: tuple[float, ...]) -> None:
        if len(point) != len(self.by) + 1:
            wanted = ", ".join([*self.by, "seconds"])
            raise InputError(f"point {i} of {self.op} must be [{wanted}], found {list(point)}")
        if not all(isfinite(value) and value >= 0 for value in point):
            raise InputError(
                f"point {i} of {self.op} must be finite and not negative, found {list(point)}"
            )


class Graphs(_Strict):
    """CUDA graphs of pure decode steps.

    Attributes:
        sizes: batch sizes that were captured; a smaller batch is padded to the next.
        replay_s: host and device time of starting one, beside its kernels.
        gap: idle time between its kernels, as a share of theirs.
    """

    sizes: tuple[Count, ...] = Field(min_length=1)
    replay_s: Seconds = 0.0
    gap: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)


class Host(_Strict):
    """What the engine does on the CPU in a step: schedule, prepare inputs, process outputs.

    A synchronous engine adds it to the time of the kernels, an asynchronous one hides it behind
    them where it is shorter, if it `overlaps` at all. (Nothing here depends on the number of
    waiting requests: it may change in the middle of a leap.)

    Attributes:
        step_s: once a step.
        sequence_s: for each sequence in it.
        token_s: for each token that it computes.
        launch_s: of a kernel outside of a CUDA graph; the kernels of a step take at least this
            times their number, and an asynchronous engine as long as that and its other work.
        mixed_step_s: on top of a step with prefill, whatever the engine: leaving the CUDA graph.
        output_s: bringing the sampled tokens to the CPU, which nothing hides.
        overlaps: False where one processor does both, the steps and the host's work (a CPU).
        pace_s: what fixed work took on that processor; 0: not taken. It tells whether a later run
            had the same speed, and is in no step's time.
    """

    step_s: Seconds = 0.0
    sequence_s: Seconds = 0.0
    token_s: Seconds = 0.0
    launch_s: Seconds = 0.0
    mixed_step_s: Seconds = 0.0
    output_s: Seconds = 0.0
    overlaps: bool = True
    pace_s: Seconds = 0.0


class Capacity(_Strict):
    """KV blocks that an engine printed, and the limits that it was started with.

    Attributes:
        kv_blocks: what vLLM prints as num_gpu_blocks, its null block included.
        max_num_batched_tokens, max_num_seqs, memory_fraction: None where it is not known; the
            blocks are then not taken over.
    """

    kv_blocks: Count
    block_size: Count
    max_num_batched_tokens: Count | None = None
    max_num_seqs: Count | None = None
    memory_fraction: float | None = Field(default=None, gt=0, le=1)
    note: str = ""


class Uneven(_Strict):
    """What uneven contexts of decodes add to a mixed attention kernel (`uneven.Alphas`).

    Attributes:
        sequences, shares, longest, prefixes: upper edges of the buckets; the last has no end.
        alphas: [chunk, bucket of sequences, of shares, of longest, of prefixes, alpha]; chunk 0 is
            pure decode.
        default: alpha of a bucket that is not among them.
    """

    default: Finite
    sequences: tuple[float, ...] = Field(min_length=1)
    shares: tuple[float, ...] = Field(min_length=1)
    longest: tuple[float, ...] = Field(min_length=1)
    prefixes: tuple[float, ...] = Field(min_length=1)
    alphas: tuple[tuple[float, int, int, int, int, Finite], ...] = ()

    @model_validator(mode="after")
    def _in_buckets(self) -> Uneven:
        for name in ("sequences", "shares", "longest", "prefixes"):
            edges = getattr(self, name)
            if list(edges) != sorted(set(edges)):
                raise InputError(f"{name} of uneven must rise, found {list(edges)}")
        counts = [len(x) for x in (self.sequences, self.shares, self.longest, self.prefixes)]
        for i, (chunk, *buckets, _) in enumerate(self.alphas):
            inside = all(0 <= b < count for b, count in zip(buckets, counts, strict=True))
            if not inside or chunk < 0:
                raise InputError(f"alpha {i} of uneven lies in no bucket: {list(self.alphas[i])}")
        return self


class Profile(_Strict):
    """Step times of one model, split in one way, on one GPU.

    Attributes:
        model, dtype, kv_dtype: names of the catalogue, and of `dtypes`.
        tp, pp, ep: of the replica; tables are of one GPU of it.
        attention: "mixed": one kernel for prefill and decode, with a 4-D table; "separate": two.
        graphs: None: no padding and no replay.
        host: None: the roofline's.
        uneven: what uneven contexts add to "mixed" attention; None: nothing is added.
        samples_sha256: of samples.parquet; "" where there is none.
        missing: operations that are filled from the roofline.
    """

    format: Literal["infersim-profile"] = FORMAT
    version: Literal[1] = VERSION
    name: str
    stamp: Stamp
    model: str
    dtype: str
    kv_dtype: str
    tp: Count = 1
    pp: Count = 1
    ep: Count = 1
    attention: Literal["separate", "mixed"]
    tables: tuple[Table, ...] = Field(min_length=1)
    graphs: Graphs | None = None
    host: Host | None = None
    capacity: Capacity | None = None
    uneven: Uneven | None = None
    samples_sha256: str = ""
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Profile:
        names = [table.op for table in self.tables]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(f"two tables of {name}")
        for name in self.missing:
            if name not in OPS:
                raise UnknownNameError("op", name, OPS)
            if name in names:
                raise InputError(f"{name} has a table and is named as missing")
        wrong = (
            {"decode_attention", "prefill_attention"}
            if self.attention == "mixed"
            else {"attention"}
        )
        for name in names:
            if name in wrong:
                raise InputError(f"attention: {self.attention} does not go with a table {name}")
        if self.uneven is not None and "attention" not in names:
            raise InputError("uneven is of a mixed attention kernel, and there is no such table")
        return self

    def table(self, op: str) -> Table | None:
        """The table of *op*, if there is one."""
        return next((table for table in self.tables if table.op == op), None)


def load(path: Path | str) -> Profile:
    """The profile in the directory *path*.

    Raises:
        InputError: no such directory, or no profile in it that this version can read.
    """
    folder = Path(path)
    file = folder / PROFILE
    if not folder.is_dir():
        raise InputError(f"no profile directory {folder}", help=f"it holds a {PROFILE}")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no {PROFILE} in {folder}", help="is it a profile?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"it cannot be read: {error}", where=str(file)) from None
    profile = parse(text, str(file))
    _check_samples(profile, folder / SAMPLES)
    return profile


def parse(text: str, where: str) -> Profile:
    """The profile that the JSON *text* of the file *where* says.

    Raises:
        InputError: the first thing that is wrong with it.
    """
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise InputError("lists within lists without end", where=where) from None
        place = f"{where}:{error.lineno}:{error.colno}"
        is_whole = text.rstrip().endswith("}")
        cut = "" if is_whole else " (is the file cut off?)"
        raise InputError(f"not JSON: {error.msg}{cut}", where=place) from None
    _check_format(data, where)
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        raise explained(error, Profile, where) from None


def save(profile: Profile, path: Path | str) -> None:
    """Write *profile* to the directory *path*, whole or not at all; same profile, same bytes.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(path)
    partial = folder / f".{PROFILE}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(dumps(profile), encoding="utf-8", newline="\n")
        partial.replace(folder / PROFILE)
    except OSError as error:
        raise InputError(f"{folder / PROFILE} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def dumps(profile: Profile) -> str:
    """The text of profile.json: one point a line."""
    data = profile.model_dump(mode="json")
    tables = [_rows_text(table, "points") for table in data.pop("tables")]
    uneven = data.pop("uneven")
    head = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)[:-2]
    if uneven is not None:
        head += ',\n "uneven":\n' + _rows_text(uneven, "alphas")
    return head + ',\n "tables": [\n' + ",\n".join(tables) + "\n ]\n}\n"


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _rows_text(part: dict[str, Any], name: str) -> str:
    """A part of a profile, its list *name* last and one row a line."""
    rows = [json.dumps([_short(value) for value in row]) for row in part.pop(name)]
    head = json.dumps(part, ensure_ascii=False, allow_nan=False)
    return "  " + head[:-1] + f', "{name}": [\n   ' + ",\n   ".join(rows) + "\n  ]}"


def _short(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _check_format(data: Any, where: str) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        said = f'format "{found}"' if found else "no format"
        raise InputError(
            f"not a profile of infersim: {said}",
            where=where,
            help="`infersim calibrate import` makes one of tables of others",
        )
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"version {version} of the profile format; this infersim reads {VERSION}",
            where=where,
            help="a newer infersim reads it",
        )


def _check_samples(profile: Profile, samples: Path) -> None:
    """The samples are not needed to simulate, so they may be absent, but not others'."""
    if not profile.samples_sha256 or not samples.is_file():
        return
    found = hash_file(samples)
    if found != profile.samples_sha256:
        raise InputError(
            f"these are not the samples that {PROFILE} was made of: SHA-256 {found[:12]}…, "
            f"expected {profile.samples_sha256[:12]}…",
            where=str(samples),
            help="restore the file, or measure again",
        )
