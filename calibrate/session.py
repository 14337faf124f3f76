"""One calibration from the device to the profile: plan, measure, assemble, save."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from ..policies.errors import InputError
from ..scenarios.catalog import load
from ..sim.cost.profile import save
from .assemble.build import Assembled, assemble
from .executor.pace import pace_ns
from .measure.device import Device, read_device
from .measure.meter import Meter, TorchMeter
from .measure.plan import builders, plan
from .measure.point import Block
from .measure.run import Effort, Outcome, Runner, Tick
from .measure.shapes import Shapes, check, free_tokens
from .measure.store import Store, identity_of

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Request:
    """What to calibrate.

    Attributes:
        kind: "cuda" or "cpu".
        model: name in the catalogue, or a file.
        dtype, kv_dtype: "auto" is what the model is published in, and bf16.
        device_name: the GPU in the catalogue, where its driver's name does not tell.
        threads: of the CPU back end; as many as torch takes if None.
        version: of infersim, for the stamp.
    """

    kind: str
    model: str
    out: Path
    minutes: float
    dtype: str = "auto"
    kv_dtype: str = "auto"
    tp: int = 1
    budget: int | None = None
    max_seqs: int | None = None
    device_name: str | None = None
    threads: int | None = None
    version: str = ""


@dataclass(frozen=True)
class Calibration:
    """What a calibration gave.

    Attributes:
        assembled: None where it was stopped before there was enough for a profile.
        warnings: what is not as it should be.
    """

    assembled: Assembled | None
    outcome: Outcome
    warnings: tuple[str, ...]


def shapes_of(request: Request, device: Device) -> Shapes:
    """The shapes to measure; small limits on a CPU.

    Raises:
        InputError: a model, format or split that cannot be measured.
    """
    model, wide = load.model(request.model), request.kind == "cpu"
    dtype = model.format(request.dtype).name
    check(model, dtype, request.tp, wide=wide)
    shapes = Shapes(
        model,
        dtype,
        "fp8" if request.kv_dtype.startswith("fp8") else "bf16",
        request.tp,
        wide,
        BLOCK_SIZE,
        request.budget or (256 if wide else 8192),
        request.max_seqs or (32 if wide else 256),
        0,
    )
    fitting = free_tokens(shapes, device.memory_bytes)
    if fitting < 1024:
        weights = model.weight_bytes(dtype, request.tp)
        raise InputError(
            f"{model.name} ({dtype}) does not fit on {device.gpu}: {weights / 1e9:.1f} GB of "
            f"weights, {device.memory_bytes / 1e9:.1f} GB of memory",
            where="--model",
        )
    return replace(shapes, max_tokens=fitting)


def calibrate(
    request: Request,
    listen: Callable[[Tick], None] = lambda tick: None,
    *,
    device: Device | None = None,
    make_meter: Callable[[Shapes, Device], Meter] | None = None,
    blocks: list[Block] | None = None,
    effort: Effort | None = None,
    pace: Callable[[], int] = pace_ns,
) -> Calibration:
    """Measure into ``request.out``, going on with what is there, and write the profile.

    Args:
        device, make_meter, blocks, effort: other than those of this machine and the whole plan.
        pace: of a host that is the device as well.

    Raises:
        InputError: torch or the device is missing, the model cannot be measured, or the directory
            holds something else.
    """
    begun = monotonic()
    found = device or read_device(request.kind, request.device_name, request.threads)
    shapes = shapes_of(request, found)
    gpu = load.gpu(request.device_name or found.gpu)
    store = Store.open(request.out, identity_of(found, shapes, gpu))
    planned = plan(shapes, found.kind, found.count) if blocks is None else blocks
    meter = make_meter(shapes, found) if make_meter else _meter(shapes, found)
    left_s = 60 * request.minutes - (monotonic() - begun)
    runner = Runner(meter, store, left_s, effort or Effort.of(found.kind), listen)
    runner.pace = pace if found.kind == "cpu" else None
    outcome = runner.carry_out(planned)
    warnings = [*store.warnings, *_warnings(outcome)]
    if not outcome.enough:
        return Calibration(None, outcome, tuple(warnings))
    made = assemble(
        store, shapes, drift=outcome.drift, notes=_notes(outcome), version=request.version
    )
    save(made.profile, request.out)
    return Calibration(made, outcome, tuple(warnings))


def _meter(shapes: Shapes, device: Device) -> TorchMeter:
    return TorchMeter(shapes, device, builders(shapes, device.kind, device.count))


def _warnings(outcome: Outcome) -> list[str]:
    found = []
    if outcome.stopped:
        found.append(
            f"{outcome.stopped}: {outcome.measured} of {outcome.planned} points are measured; "
            "the same command goes on"
        )
    if outcome.drifting:
        found.append(f"{outcome.drifting} rounds drifted by more than their limit")
    if outcome.refused:
        name, reason = next(iter(outcome.refused.items()))
        found.append(f"{len(outcome.refused)} points could not be run, first {name}: {reason}")
    return found


def _notes(outcome: Outcome) -> tuple[str, ...]:
    """What of the run belongs into the profile."""
    found = [f"{outcome.measured} of {outcome.planned} planned points measured"]
    if outcome.refused:
        names = ", ".join(sorted({name.split(" at ")[0] for name in outcome.refused}))
        found.append(f"{len(outcome.refused)} points could not be run: {names}")
    if outcome.drift > 0.03:
        found.append(f"the device drifted by {outcome.drift:.1%} between anchors")
    return tuple(found)
