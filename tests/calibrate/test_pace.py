"""A host whose speed changes: rounds lie apart, and samples of one speed make a profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infersim.calibrate.compare import steps
from infersim.calibrate.compare.pace import Pace, at_pace, pace, ratios
from infersim.calibrate.executor.pace import BAND, alike, pace_between, pace_ns, prevailing
from infersim.calibrate.measure.device import Device, Readings
from infersim.calibrate.measure.point import Point
from infersim.calibrate.measure.run import Effort
from infersim.calibrate.measure.store import Sample, Store, read, write
from infersim.calibrate.session import Calibration, Request, calibrate
from infersim.sim.cost.linear import LinearCost
from infersim.sim.cost.profile import SAMPLES, load
from infersim.sim.state.steps import STEP_COLUMNS, StepLog

FAST, SLOW = 30e-6, 55e-6
Meter = Any


def sample(at: int, round_: int, seconds: float, pace_s: float) -> Sample:
    """Of a norm."""
    return Sample(Point("norm", ("tokens",), (at,)), round_, seconds, 0.0, True, Readings(), pace_s)


def calibrated(out: Path, device: Device, meter: Meter, effort: Effort, **more: Any) -> Calibration:
    """Of the tiny model with *meter*."""
    return calibrate(
        Request("cpu", "tiny", out, 5.0),
        device=device,
        make_meter=lambda shapes, device: meter,
        effort=effort,
        **more,
    )


def test_work_that_is_always_the_same_takes_some_time() -> None:
    found = [pace_ns() for _ in range(20)]
    assert 1_000 < min(found) < 1_000_000


def test_paces_are_alike_within_a_band() -> None:
    assert alike(FAST, FAST * BAND * 0.999)
    assert alike(FAST * BAND * 0.999, FAST)
    assert not alike(FAST, FAST * BAND * 1.001)
    assert not alike(0.0, FAST)
    assert not alike(0.0, 0.0)


def test_a_pace_that_changes_between_two_probes_is_not_known() -> None:
    assert pace_between(FAST, 1.2 * FAST) == pace_between(1.2 * FAST, FAST) == 1.2 * FAST
    assert pace_between(FAST, SLOW) == pace_between(SLOW, FAST) == 0.0


def test_the_fastest_pace_at_which_enough_was_seen_prevails() -> None:
    mostly_slow = [(n, SLOW * (1 + n % 7 / 100)) for n in range(20)] + [(n, FAST) for n in range(9)]
    assert alike(prevailing(mostly_slow), SLOW)
    for fast in (13, 20):  # of twenty: enough to take the free core for the reference
        found = prevailing([*mostly_slow, *((n, FAST * (1 + n / 200)) for n in range(fast))])
        assert FAST < found < 1.1 * FAST
    one_is_lucky = [*mostly_slow, (3, FAST / 2)]
    assert alike(prevailing(one_is_lucky), SLOW)
    assert prevailing([(1, 0.0), (2, 0.0)]) == 0.0


def test_tables_are_made_of_samples_at_the_prevailing_pace(tmp_path: Path) -> None:
    store = Store(tmp_path, {"kind": "cpu"})
    for at in range(10, 40):
        store.add([sample(at, 0, 1.0, FAST), sample(at, 1, 1.8, SLOW), sample(at, 2, 1.1, FAST)])
    store.add([sample(9, 0, 1.8, SLOW), sample(9, 1, 1.9, SLOW), sample(9, 2, 4.0, 3 * SLOW)])
    found = {point.at[0]: samples for point, samples in store.by_point().items()}
    assert all(found[at] == [1.0] for at in range(10, 40))  # of two rounds the quieter
    assert found[9] == [1.8]  # the nearest that there is
    assert store.off_pace() == {("norm", "", (9,))}
    store.identity["kind"] = "cuda"
    assert {len(samples) for samples in store.by_point().values()} == {3}


def test_the_pace_of_a_sample_is_kept_on_disk(tmp_path: Path) -> None:
    rows = [sample(1, 0, 1.0, FAST), sample(1, 1, 1.8, SLOW)]
    file = tmp_path / SAMPLES
    write(file, {"kind": "cpu"}, {}, rows)
    assert read(file)[2] == rows


@pytest.mark.parametrize("free", [True, False])
def test_a_round_whose_pace_changed_counts_where_a_free_core_is_the_reference(
    tmp_path: Path, free: bool
) -> None:
    """0.9 s may be a faster host's, unless there is none."""
    store = Store(tmp_path, {"kind": "cpu"})
    store.add(sample(at, 0, 1.0, SLOW) for at in range(20))
    store.add(sample(at, 0, 0.5, FAST) for at in range(0 if free else 9))
    store.add([sample(15, 1, 0.9, 0.0)])
    found = {point.at[0]: samples for point, samples in store.by_point().items()}
    assert found[15] == ([0.9] if free else [1.0])
    assert found[3] == [1.0]


def test_samples_of_before_paces_were_taken_go_by_the_quietest_round(tmp_path: Path) -> None:
    import pyarrow.parquet

    file = tmp_path / SAMPLES
    write(file, {"kind": "cpu"}, {}, [sample(1, n, 1.0 + n, FAST) for n in range(3)])
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.drop_columns(["pace_s"]), file)
    identity, facts, samples = read(file)
    store = Store(tmp_path, identity, facts, samples)
    assert [*store.by_point().values()] == [[1.0]]  # the quietest round
    assert (store.pace_s(), store.off_pace()) == (0.0, set())


def test_rounds_lie_a_whole_plan_apart(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    apart, together = make_meter(), make_meter()
    done = calibrated(out, device, apart, Effort(3, 0, 0.2, spread=True), pace=lambda: 30_000)
    calibrated(out.with_name("other"), device, together, Effort(3, 0, 0.2), pace=lambda: 30_000)
    planned = done.outcome.planned
    for number in range(3):
        turn = apart.asked[number * planned : (number + 1) * planned]
        assert len({point.key for point in turn}) == planned
    assert sorted(map(str, apart.asked)) == sorted(map(str, together.asked))
    assert len({point.key for point in together.asked[:planned]}) < planned
    assert Effort.of("cpu").spread
    assert not Effort.of("cuda").spread


def test_what_was_only_measured_on_a_slower_host_is_measured_again(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    meter, asked = make_meter(), count()
    paces = [SLOW if n < 2 * 40 else FAST for n in range(10_000)]  # two probes a point
    ticks: list[Any] = []
    done = calibrated(
        out,
        device,
        meter,
        Effort(1, 0, 0.2, spread=True, more=3),
        pace=lambda: round(1e9 * paces[next(asked)]),
        listen=ticks.append,
    )
    assert len(meter.asked) == done.outcome.planned + 40
    assert {p.key for p in meter.asked[:40]} == {p.key for p in meter.asked[-40:]}
    assert ticks[-1].done == ticks[-1].total
    assert done.assembled is not None
    host = load(out).host
    assert host is not None
    assert host.pace_s == pytest.approx(FAST, rel=0.05)
    assert not any("another pace" in note for note in done.assembled.profile.notes)
    again = make_meter()
    calibrated(out, device, again, Effort(1, 0, 0.2, spread=True, more=3), pace=lambda: 30_000)
    assert again.asked == []


def test_a_point_that_never_met_that_pace_is_told(
    out: Path, device: Device, make_meter: Callable[..., Meter]
) -> None:
    meter, asked = make_meter(), count()
    done = calibrated(
        out,
        device,
        meter,
        Effort(1, 0, 0.2, spread=True),
        pace=lambda: 55_000 if next(asked) < 2 * 7 else 30_000,
    )
    assert done.assembled is not None
    assert any("7 of 2" in n and "another pace" in n for n in done.assembled.profile.notes)


def test_a_gpu_has_no_pace(out: Path, device: Device, make_meter: Callable[..., Meter]) -> None:
    card = replace(device, kind="cuda", gpu="l4", memory_bytes=22 << 30, threads=0)
    meter = make_meter()
    done = calibrate(
        Request("cuda", "qwen3-0.6b", out, 5.0),
        device=card,
        make_meter=lambda shapes, device: meter,
        effort=Effort(1, 0, 0.2, more=1),
    )
    assert len(meter.asked) == done.outcome.planned
    assert {s.pace_s for s in read(out / SAMPLES)[2]} == {0.0}


def log(factors: list[float], paces: list[float]) -> dict[str, Any]:
    """Decode steps that take 1,000 ps, times a factor; then the pace of each, in s."""
    rows, now = [], 0
    for i, factor in enumerate(factors):
        took = round(1000 * factor)
        rows.append((0, i, now, now + took, 1, 100, 0, 0, 0, 1, 0, 0, 0, 0, 1000 + i))
        now += took
    found: dict[str, Any] = {
        name: np.array(column, dtype=dtype)
        for (name, dtype), column in zip(STEP_COLUMNS.items(), zip(*rows, strict=True), strict=True)
    }
    return found | {"pace_ps": np.array([round(p * 1e12) for p in paces])}


def test_steps_at_the_calibration_s_pace_are_counted_apart() -> None:
    """Half of the run is 1.8 times slower; the step between has no pace."""
    run = log([1.0] * 10 + [1.8] * 10, [FAST] * 9 + [SLOW] * 11)
    told = log([1.02] * 20, [0.0] * 20)
    found = steps.compare(run, told, [LinearCost(1000)], pace_s=FAST)
    rows = {row["kind"]: row for row in found["times"]}
    assert rows["all"]["n"] == 20
    assert rows["same pace"]["n"] == 8  # without the first, before which there is no probe
    assert rows["same pace"]["median"] == pytest.approx(0.02)
    assert rows["all"]["bias"] < -0.1
    assert found["pace"] == Pace(SLOW / FAST, SLOW / FAST, 8, 20)._asdict() | {
        "median": pytest.approx(SLOW / FAST),
        "p95": pytest.approx(SLOW / FAST),
    }
    assert "same pace" not in {
        row["kind"] for row in steps.compare(run, told, [LinearCost(1000)])["times"]
    }


def test_repeats_of_steps_at_that_pace_are_compared_with_each_other() -> None:
    first = log([1.0] * 6 + [1.8] * 4, [FAST] * 6 + [SLOW] * 4)
    second = log([1.04] * 6 + [1.0] * 4, [FAST] * 10)
    found = steps.compare(first, first, [LinearCost(1000)], [second], pace_s=FAST)
    rows = {row["kind"]: row for row in found["times"]}
    assert rows["same pace"]["noise"] == pytest.approx(0.04)


def test_a_faster_host_is_another_one_too() -> None:
    ratio = ratios(log([1.0] * 5, [FAST] * 5), SLOW)
    assert np.isnan(ratio[0])
    assert not at_pace(ratio).any()
    assert pace(np.array([np.nan])) is None


def test_a_log_takes_the_pace_after_each_step() -> None:
    assert "pace_ps" in StepLog(measured=True).arrays()
    assert "pace_ps" not in StepLog().arrays()
