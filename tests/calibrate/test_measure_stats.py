"""Medians, their intervals, non-negative least squares, and names of devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infersim.calibrate.assemble.nnls import solve
from infersim.calibrate.measure.device import (
    Readings,
    catalogue_name,
    readings,
)
from infersim.calibrate.measure.stats import summarize
from infersim.calibrate.measure.timer import HostTimer
from infersim.policies.errors import InputError
from infersim.scenarios.catalog import load
from infersim.sim.cost.stamps import kernels_hash


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for n in (9, 20, 45):
        samples = random.exponential(size=(600, n))
        found = [summarize(row.tolist()) for row in samples]
        covered = np.mean([s.low_s <= np.log(2) <= s.high_s for s in found])
        assert 0.93 < covered < 0.995


def test_few_samples_give_the_whole_range() -> None:
    found = summarize([3.0, 1.0, 2.0])
    assert (found.median_s, found.low_s, found.high_s, found.samples) == (2.0, 1.0, 3.0, 3)
    assert found.noisy
    assert found.relative_error == 0.5
    assert not summarize([1.0, 1.01, 1.02]).noisy


def test_least_squares_without_negative_coefficients() -> None:
    random = np.random.default_rng(2)
    matrix = random.uniform(size=(40, 4))
    wanted = matrix @ np.array([2.0, 0.0, 0.5, 0.0]) - 0.1 * matrix[:, 3]
    found = solve(matrix, wanted)
    assert found.values[3] == 0.0
    assert found.values[0] == pytest.approx(2.0, abs=0.05)
    assert (found.values >= 0).all()
    residual = wanted - matrix @ found.values
    gradient = matrix.T @ residual
    assert gradient.max() < 1e-8  # no coefficient would help by growing
    assert abs(gradient[found.values > 0]).max() < 1e-8


def test_columns_that_do_the_same_work_are_said() -> None:
    column = np.arange(1.0, 11.0)
    found = solve(np.column_stack([column, 2 * column]), 3 * column)
    assert found.rank == 1
    assert found.condition > 1e6
    assert found.values[0] + 2 * found.values[1] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("driver", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_devices_by_the_name_of_their_driver(driver: str, gpu: str) -> None:
    assert catalogue_name(driver, load.gpu(gpu).memory_bytes) == gpu


@pytest.mark.parametrize("driver", ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 NVL", "NVIDIA Z9"])
def test_a_device_that_only_resembles_a_known_one_is_refused(driver: str) -> None:
    with pytest.raises(InputError, match="no GPU that the driver calls"):
        catalogue_name(driver, 42 << 30)


def test_clocks_as_the_driver_writes_them(device: object) -> None:
    from dataclasses import replace

    on_gpu = replace(device, kind="cuda")  # type: ignore[type-var]
    told = readings(on_gpu, lambda query: "1980, 2619, 41, [N/A]")
    assert told == Readings(1980.0, 2619.0, 41.0, 0.0)
    assert readings(on_gpu, lambda query: "") == Readings()
    assert readings(device, lambda query: "1, 2, 3, 4") == Readings()  # type: ignore[arg-type]


def test_kernels_are_told_apart_by_their_source(tmp_path: object) -> None:

    folder = Path(str(tmp_path))
    (folder / "a.py").write_text("x = 1\n")
    before = kernels_hash(folder)
    assert before == kernels_hash(folder)
    (folder / "a.py").write_text("x = 2\n")
    assert kernels_hash(folder) != before


def test_the_host_timer_counts_launches_over_all_buffers() -> None:
    counts = [0, 0, 0]

    def call(i: int) -> None:
        counts[i] += 1

    calls = [lambda i=i: call(i) for i in range(3)]
    samples = HostTimer(samples=4, span_s=1e-4).time(calls)
    assert len(samples) == 4
    assert all(0 < s < 1e-3 for s in samples)
    assert min(counts) > 4
    assert max(counts) - min(counts) <= 8
