"""Calibrations on a device of known speed: fits, interrupts, drift, foreign directories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infersim.calibrate.measure.device import Device
from infersim.calibrate.measure.run import Effort, Tick
from infersim.calibrate.measure.store import read
from infersim.calibrate.session import Calibration, Request, calibrate
from infersim.policies.errors import InputError
from infersim.sim.cost.profile import PROFILE, SAMPLES, load

Meter = Any
_STEPS = Effort(rounds=2, repeats=1, max_drift=0.03)


def run(out: Path, device: Device, meter: Meter, **more: Any) -> Calibration:
    """A calibration of the tiny model with *meter*."""
    request = Request("cpu", more.pop("model", "tiny"), out, more.pop("minutes", 5.0))
    return calibrate(
        request,
        more.pop("listen", lambda tick: None),
        device=device,
        make_meter=lambda shapes, device: meter,
        effort=_STEPS,
        pace=lambda: 30_000,
        **more,
    )


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, device: Device, make_meter: Callable[..., Meter]
) -> tuple[Calibration, Path]:
    """A whole calibration, and its directory."""
    out = tmp_path_factory.mktemp("calibrated") / "profile"
    return run(out, device, make_meter()), out


def test_tables_are_the_truth(whole: tuple[Calibration, Path]) -> None:
    done, out = whole
    assert done.assembled is not None
    assert (done.outcome.stopped, done.outcome.measured) == ("", done.outcome.planned)
    profile = load(out)
    assert profile == done.assembled.profile
    assert profile.stamp.origin == "measured"
    assert profile.missing == ()
    for op in ("qkv", "norm", "sampler"):
        table = profile.table(op)
        assert table is not None
        work = {p.at[0]: p for p in done.assembled.fitted[op].summaries}
        for at, seconds in table.points:
            one = work.get(int(at))
            if one is not None:
                wanted = 3e-6 + one.flops / 1e13 + one.bytes / 1e11
                assert seconds == pytest.approx(wanted, rel=0.01)
    between = {int(p[0]): p[1] for p in profile.table("down").points}  # type: ignore[union-attr]
    inputs, outputs = 768, 256
    for tokens in sorted(set(between) - {p.at[0] for p in done.assembled.fitted["down"].summaries}):
        moved = 4 * (inputs * outputs + tokens * (inputs + outputs))
        wanted = 3e-6 + 2 * tokens * inputs * outputs / 1e13 + moved / 1e11
        assert between[tokens] == pytest.approx(wanted, rel=0.05)


def test_host_terms_are_what_whole_steps_leave(whole: tuple[Calibration, Path]) -> None:
    done, _ = whole
    assert done.assembled is not None
    steps = done.assembled.steps
    assert steps is not None
    assert len(steps.rows) == 48
    assert steps.fitted == 32
    assert max(abs(e) for e in steps.errors) < 0.1
    assert steps.host.step_s > 1e-3  # 5.2 ms less the operations
    assert not steps.host.overlaps
    assert done.assembled.profile.graphs is None


def test_uneven_batches_widen_sigma(whole: tuple[Calibration, Path]) -> None:
    done, _ = whole
    assert done.assembled is not None
    quality = done.assembled.qualities["decode_attention"]
    assert quality.uneven == pytest.approx(0.1, abs=0.04)  # the fake takes 10 % longer for them
    sigmas = {t.op: t.sigma for t in done.assembled.profile.tables}
    assert sigmas["decode_attention"] > 0.05 > sigmas["norm"]
    assert any("uneven lengths" in text for text in done.assembled.profile.notes)


def test_an_interrupt_keeps_what_is_measured_and_the_next_run_goes_on(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    first = make_meter(interrupt_after=100)
    done = run(out, device, first)
    assert done.outcome.stopped == "interrupted"
    assert any("the same command goes on" in text for text in done.warnings)
    _, _, samples = read(out / SAMPLES)
    kept = {(s.point.key, s.round) for s in samples}
    assert 90 < len(kept) <= 99
    second = make_meter()
    done = run(out, device, second)
    assert done.outcome.stopped == ""
    assert len(second.asked) == 2 * done.outcome.planned - len(kept)
    assert done.assembled is not None
    third = make_meter()
    assert run(out, device, third).outcome.measured == done.outcome.planned
    assert third.asked == []


def test_too_little_for_a_profile_is_said(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    done = run(out, device, make_meter(interrupt_after=20))
    assert done.assembled is None
    assert not (out / PROFILE).exists()


def test_the_deadline_stops_after_what_matters_most(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    done = run(out, device, make_meter(), minutes=0.0)
    assert done.outcome.stopped == "deadline"
    assert done.outcome.measured == 0
    assert done.assembled is None


def test_a_round_that_drifts_is_measured_again(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    meter = make_meter(drifts=(1.0, 1.1, 1.1))
    done = run(out, device, meter)
    assert (done.outcome.repeated, done.outcome.drifting) == (1, 0)
    _, _, samples = read(out / SAMPLES)
    assert {s.round for s in samples if not s.kept} == {0}
    assert all(s.drift == pytest.approx(0.1) for s in samples if not s.kept)
    shaking = make_meter(drifts=(1.0, 1.1, 1.3))
    assert run(out.with_name("other"), device, shaking).outcome.drifting == 1


def test_progress_reaches_its_total(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    ticks: list[Tick] = []
    run(out, device, make_meter(drifts=(1.0, 1.1, 1.1)), listen=ticks.append)
    assert ticks[-1].done == ticks[-1].total
    assert ticks[0].done == 1


def test_points_that_cannot_run_are_named(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    meter = make_meter()
    answer = meter.samples

    def samples(point: Any) -> list[float]:
        if point.op == "lm_head" and point.at[0] == 32:
            raise RuntimeError("out of memory\nand more")
        return answer(point)  # type: ignore[no-any-return]

    meter.samples = samples
    done = run(out, device, meter)
    assert list(done.outcome.refused.values()) == ["out of memory"]
    assert done.assembled is not None
    assert any("lm_head" in text for text in done.assembled.profile.notes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kernels": "0" * 64}, "measured with kernels"),
        ({"torch": "2.1"}, "measured with torch '2.0', this is '2.1'"),
        ({"name": "another CPU"}, "measured with name"),
        ({"threads": 2}, "measured with threads 1"),
    ],
)
def test_samples_of_another_device_are_not_mixed_in(
    out: Path,
    device: Device,
    make_meter: Callable[..., Meter],
    change: dict[str, Any],
    says: str,
) -> None:
    run(out, device, make_meter(interrupt_after=40))
    with pytest.raises(InputError, match=says) as raised:
        run(out, replace(device, **change), make_meter())
    assert "--out" in raised.value.help


def test_a_newer_driver_only_warns(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    run(out, device, make_meter(interrupt_after=40))
    done = run(out, replace(device, driver="570.1"), make_meter())
    assert any("driver was '' and is '570.1' now" in text for text in done.warnings)


def test_a_directory_with_something_else_is_refused(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="did not measure"):
        run(out, device, make_meter())
    file = out / "thesis.tex"
    with pytest.raises(InputError, match="is a file"):
        run(file, device, make_meter())


def test_a_model_that_does_not_fit_is_refused(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    small = replace(device, kind="cuda", gpu="l4", memory_bytes=22 << 30)
    request = Request("cuda", "llama-3.1-70b", out, 1.0)
    with pytest.raises(InputError, match="does not fit on l4"):
        calibrate(request, device=small, make_meter=lambda s, d: make_meter())
