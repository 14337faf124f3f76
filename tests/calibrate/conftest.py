"""A device of known speed: what calibration should find out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from infersim.calibrate.measure.device import Device, Readings
from infersim.calibrate.measure.meter import Anchor
from infersim.calibrate.measure.ops.lengths import parse_mix
from infersim.calibrate.measure.point import Point
from infersim.sim.cost.profile import Host, Profile, Stamp, Table, save
from infersim.sim.cost.stamps import kernels_hash

STEP_S, SEQUENCE_S, TOKEN_S = 2e-4, 5e-6, 1e-7


class FakeMeter:
    """Answers from formulas, with noise; counts what it is asked, and can be interrupted.

    Args:
        interrupt_after: points, after which Ctrl-C arrives; 0 for never.
        drifts: factors of the anchors, one a reading; the last one stays.
    """

    def __init__(self, interrupt_after: int = 0, drifts: tuple[float, ...] = ()) -> None:
        self.asked: list[Point] = []
        self.facts: dict[str, float] = {}
        self._left, self._drifts, self._random = interrupt_after, list(drifts), Random(0)

    def samples(self, point: Point) -> list[float]:
        self.asked.append(point)
        if self._left:
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt
        return [truth(point) * self._random.gauss(1, 0.002) for _ in range(5)]

    def anchor(self) -> Anchor:
        factor = self._drifts[0] if self._drifts else 1.0
        del self._drifts[: len(self._drifts) > 1]
        return Anchor(1e-3 * factor, 2e-3)

    def readings(self) -> Readings:
        return Readings(1500.0, 2600.0, 50.0, 300.0)

    def release(self) -> None:
        """Nothing is shared."""


def truth(point: Point) -> float:
    """Seconds of a device with 1e13 operations and 1e11 bytes a second."""
    if point.op.startswith("step"):
        return _step(point)
    if point.variant:
        return 1.1 * _one(point)
    return _one(point)


def _one(point: Point) -> float:
    return 3e-6 + point.flops / 1e13 + point.bytes / 1e11


def _step(point: Point) -> float:
    """Eight launches of attention-free work, and the host's terms."""
    chunks = parse_mix(point.variant) if point.variant else []
    tokens = point.at[0] + sum(new for new, _ in chunks)
    return 5e-3 + STEP_S + SEQUENCE_S * (point.at[0] + len(chunks)) + TOKEN_S * tokens


@pytest.fixture(scope="session")
def device() -> Device:
    """A CPU that this machine need not have."""
    return Device(
        *("cpu", "a CPU of the tests", "cpu", "", "", "2.0", "3.0", kernels_hash()),
        l2_bytes=1 << 20,
        memory_bytes=1 << 33,
        threads=1,
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a profile goes."""
    return tmp_path / "profile"


@pytest.fixture(scope="session")
def make_meter() -> Callable[..., FakeMeter]:
    """The fake meter."""
    return FakeMeter


@pytest.fixture(scope="session")
def save_profile() -> Callable[[Path, Host], Path]:
    """Write a profile of attention only, and of a host."""

    def saved(folder: Path, host: Host) -> Path:
        decode = Table(
            op="decode_attention",
            times=4,
            by=("decodes", "context_tokens"),
            points=((1, 16, 2e-4), (16, 16, 2e-3), (1, 512, 3e-4), (16, 512, 3e-3)),
        )
        prefill = Table(
            op="prefill_attention",
            times=4,
            by=("chunk", "prefix"),
            points=((2, 0, 2e-4), (256, 0, 2e-3), (2, 256, 3e-4), (256, 256, 3e-3)),
        )
        made = Profile(
            name="a CPU of the tests",
            stamp=Stamp(origin="measured", gpu="cpu"),
            model="tiny",
            dtype="bf16",
            kv_dtype="bf16",
            attention="separate",
            tables=(decode, prefill),
            host=host,
        )
        save(made, folder)
        return folder

    return saved
