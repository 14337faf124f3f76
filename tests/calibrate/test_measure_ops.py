"""What operations of the plan launch, and how often the device is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="measuring needs torch")

from infersim.calibrate.measure import meter
from infersim.calibrate.measure.device import Device, Readings, read_device
from infersim.calibrate.measure.meter import TorchMeter
from infersim.calibrate.measure.ops.bench import Bench
from infersim.calibrate.measure.ops.host import Launches
from infersim.calibrate.measure.ops.sampling import Bitmask
from infersim.calibrate.measure.ops.steps import DEVICE, STEP, Steps
from infersim.calibrate.measure.plan import grids
from infersim.calibrate.measure.point import Point
from infersim.calibrate.measure.shapes import Shapes
from infersim.scenarios.catalog import load


@pytest.fixture
def device() -> Device:
    return read_device("cpu")


@pytest.fixture
def bench(device: Device) -> Bench:
    shapes = Shapes(load.model("tiny"), "bf16", "bf16", 1, True, 16, 256, 32, 100_000)
    return Bench(shapes, device)


class Counted:
    """A loop that takes a tenth of a second on the device, more on the host, and counts."""

    taken = 0

    def steps(
        self, decodes: int, context: int, mix: object, samples: int, *, held: bool = False
    ) -> list[Any]:
        if held:
            return [SimpleNamespace(wall_s=99.0, device_s=0.05 + self.taken)] * samples
        self.taken += 1
        return [SimpleNamespace(wall_s=0.2 + self.taken, device_s=0.1 + self.taken)] * samples


def test_a_step_is_taken_once_for_both_clocks(bench: Bench) -> None:
    loop, steps = Counted(), Steps((1, 0, 0), 2, on_gpu=True)
    bench.kept("model", lambda: loop)

    def read(op: str, at: tuple[int, int], mix: str = "32@0") -> list[float]:
        job = steps.build(Point(op, ("decodes", "context_tokens"), at, mix), bench)
        assert job.read is not None
        return job.read()

    assert read(DEVICE, (4, 64)) == [1.1, 1.1]
    assert read(STEP, (4, 64)) == [1.2, 1.2]
    assert read(STEP, (4, 64)) == [2.2, 2.2]  # the next round
    assert read(STEP, (8, 64)) == [3.2, 3.2]
    assert read(DEVICE, (4, 64)) == [2.1, 2.1]
    assert read(DEVICE, (8, 64)) == [3.1, 3.1]
    assert loop.taken == 3
    # a graph's time on the device is taken when it was launched before it began
    assert read(STEP, (4, 64), "") == [4.2, 4.2]
    assert read(DEVICE, (4, 64), "") == [4.05, 4.05]


def test_the_launches_of_a_layer_are_the_executors_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infersim.calibrate.executor.ops import TorchOps

    called: list[str] = []
    for name in ("add_rms_norm", "rope_kv_write", "prefill_attention", "silu_mul"):
        plain = getattr(TorchOps, name)

        def told(*given: Any, name: str = name, plain: Callable[..., Any] = plain, **more: Any):  # type: ignore[no-untyped-def]
            called.append(name)
            return plain(*given, **more)

        monkeypatch.setattr(TorchOps, name, told)
    job = Launches(graphs=False).build(Point("launch", (), ()), bench)
    job.calls[0]()
    assert job.on_host
    layers = called.count("prefill_attention")
    assert called.count("add_rms_norm") == 2 * layers
    assert job.launches == 9 * layers  # four products, five kernels


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"qk_norm": True}, 10),  # both norms are one operation
        ({"ffn": 0, "experts": 8, "top_k": 2, "moe_ffn": 64}, 8),  # a router, and all experts
    ],
)
def test_what_is_launched_is_the_models(bench: Bench, change: dict[str, Any], count: int) -> None:
    model = replace(bench.shapes.model, **change)
    bench.shapes = replace(bench.shapes, model=model)
    job = Launches(graphs=False).build(Point("launch", (), ()), bench)
    job.calls[0]()
    assert job.launches % count == 0
    assert job.launches // count == 8


def test_masks_are_ready_before_they_are_applied(bench: Bench) -> None:
    import torch

    (point, *_) = Bitmask().points(bench.shapes, grids(bench.shapes, "cpu"))
    (call,) = Bitmask().build(point, bench).calls
    words = [c.cell_contents for c in call.__closure__ or ()]  # type: ignore[attr-defined]
    assert {t.dtype for t in words if torch.is_tensor(t)} == {torch.int32, torch.float32}


def test_the_driver_is_asked_every_few_seconds(
    bench: Bench, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [0.0], []

    def answer(_: Device) -> Readings:
        asked.append(now[0])
        return Readings(float(len(asked)))

    monkeypatch.setattr(meter, "monotonic", lambda: now[0])
    monkeypatch.setattr(meter, "readings", answer)
    one = TorchMeter(bench.shapes, replace(device, kind="cpu"), {})
    told = []
    for now[0] in (0.0, 1.0, 14.9, 15.1, 16.0, 40.0):
        told.append(one.readings().sm_mhz)
    assert told == [1, 1, 1, 2, 2, 3]
    assert asked == [0.0, 15.1, 40.0]
