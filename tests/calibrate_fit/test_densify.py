"""Tables made of fits: straight lines between their knots stay near the fit."""

import numpy as np
import pytest

from infersim.calibrate.fit import Device, Span, densify, fit_op
from infersim.policies.errors import InputError
from infersim.scenarios.catalog.load import gpu

H100 = Device.of(gpu("h100"))
SHAPE = {"n": 4096, "k": 4096}


def norm_fit():
    rows = 2.0 ** np.arange(0, 14)
    seconds = 2e-6 + rows * 16384 / (0.7 * H100.bytes_per_s)
    return fit_op("rows", {"rows": rows, "row_bytes": 16384}, seconds, H100, "kriging")


def test_lines_between_knots_are_within_the_tolerance():
    fit = norm_fit()
    table = densify(fit, "norm", {"tokens": Span("rows", 1, 8192)}, {"row_bytes": 16384}, times=64)
    knots = np.array(table.points)
    everywhere = np.arange(1, 8193, dtype=float)
    lines = np.interp(everywhere, knots[:, 0], knots[:, 1])
    smooth = fit.smooth({"rows": everywhere, "row_bytes": 16384})
    assert np.abs(lines / smooth - 1).max() < 0.006
    assert np.percentile(np.abs(lines / smooth - 1), 90) < 0.003
    assert len(knots) < 300


def test_measured_points_and_wanted_values_are_knots_with_their_grades():
    fit = fit_op("gemm", {"m": [1, 48, 700], **SHAPE}, [1e-5, 2e-5, 5e-5], H100)
    table = densify(
        fit, "o", {"tokens": Span("m", 1, 1024, at=(333,))}, SHAPE, times=32, note="why", sigma=0.1
    )
    found = dict(table.points)
    grades = dict(zip((p[0] for p in table.points), table.grades, strict=True))
    assert found[48] == 2e-5
    assert (grades[48], grades[333], grades[1024]) == ("measured", "interpolated", "extrapolated")
    assert (table.op, table.times, table.by, table.note) == ("o", 32, ("tokens",), "why")
    assert table.sigma == 0.1


def test_a_staircase_gets_knots_on_both_sides_of_its_steps():
    m = np.arange(64, 8193, 64, dtype=float)
    m = np.concatenate([m, m + 1])
    tiles = np.ceil(m / 128) * 32
    seconds = 5e-6 + np.ceil(tiles / 132) * 3e-5
    fit = fit_op("gemm", {"m": m, **SHAPE}, seconds, H100, "kriging")
    table = densify(fit, "qkv", {"tokens": Span("m", 64, 8192)}, SHAPE, times=1)
    knots = np.array(table.points)
    lines = np.interp(m, knots[:, 0], knots[:, 1])
    assert np.abs(lines / seconds - 1)[m <= 8192].max() < 1e-9


def test_two_axes_make_a_full_grid():
    rows = np.array([(b, c) for b in (1, 8, 64) for c in (16, 256, 4096, 65536)], float)
    heads = {"heads": 32, "kv_heads": 8, "head_dim": 128}
    seconds = 1e-5 + rows[:, 0] * rows[:, 1] * 4096 / (0.85 * H100.bytes_per_s)
    fit = fit_op(
        "decode_attention", {"batch": rows[:, 0], "context": rows[:, 1], **heads}, seconds, H100
    )
    spans = {"decodes": Span("batch", 1, 64), "context_tokens": Span("context", 16, 65536)}
    table = densify(fit, "decode_attention", spans, heads, times=32, add_s=1e-6)
    found = {point[:2]: point[2] for point in table.points}
    batches, contexts = ({p[i] for p in table.points} for i in (0, 1))
    assert len(found) == len(batches) * len(contexts)
    assert found[8.0, 4096.0] == pytest.approx(seconds[6] + 1e-6)
    assert max(len(batches), len(contexts)) <= 48


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ({"tokens": Span("rows", 9, 8)}, "empty: 9 to 8"),
        ({}, "0 axes"),
    ],
)
def test_wrong_spans_are_refused(spans, says):
    with pytest.raises(InputError, match=says):
        densify(norm_fit(), "norm", spans, {"row_bytes": 16384}, times=1)
