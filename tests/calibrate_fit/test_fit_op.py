"""Fits of synthetic points whose truth is known."""

import numpy as np
import pytest

from infersim.calibrate.fit import Device, fit_op, kind_named, kind_names
from infersim.calibrate.fit import op as op_module
from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.catalog.load import gpu

H100 = Device.of(gpu("h100"))
RNG = np.random.default_rng(7)


def gemm_points(shapes=((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))):
    ms = [2**i for i in range(14)] + [2**i + 1 for i in range(1, 13)] + [24, 48, 96, 192, 768, 1536]
    rows = [(m, n, k) for n, k in shapes for m in ms]
    m, n, k = np.array(rows, float).T
    return {"m": m, "n": n, "k": k}


def gemm_seconds(c):
    """An invented GPU: 70 % of peak, 80 % of bandwidth, 4 us, waves, and a slow wiggle."""
    m, n, k = c["m"], c["n"], c["k"]
    tiles = np.ceil(m / 128) * np.ceil(n / 128)
    waves = np.where(tiles >= 132, np.ceil(tiles / 132) * 132 / tiles, 1)
    compute = 2 * m * n * k / (0.7 * H100.flops) * waves**0.8
    memory = 2 * (m * k + n * k + m * n) / (0.8 * H100.bytes_per_s)
    wiggle = 1 + 0.1 * np.sin(np.log2(m) / 2)
    return (4e-6 + (compute**3 + memory**3) ** (1 / 3)) * wiggle


def decode_points():
    rows = [
        (b, c, h, g)
        for h, g in ((32, 8), (16, 4), (64, 8))
        for b in (1, 2, 4, 8, 16, 32, 64, 128)
        for c in (64, 256, 1024, 4096, 16384)
    ]
    b, c, h, g = np.array(rows, float).T
    return {"batch": b, "context": c, "heads": h, "kv_heads": g, "head_dim": 128}


def decode_seconds(c):
    moved = 4 * c["batch"] * c["context"] * c["kv_heads"] * c["head_dim"]
    ctas = c["batch"] * c["kv_heads"] * 30e-9
    return 9e-6 + ((moved / (0.85 * H100.bytes_per_s)) ** 2 + ctas**2) ** 0.5


def error(found, truth):
    return np.abs(found / truth - 1)


@pytest.mark.parametrize(
    ("kind", "points", "seconds", "median", "worst"),
    [
        ("gemm", gemm_points(), gemm_seconds, 0.03, 0.15),
        ("decode_attention", decode_points(), decode_seconds, 0.02, 0.12),
    ],
    ids=["gemm", "decode"],
)
def test_points_left_out_are_foretold(kind, points, seconds, median, worst):
    c = kind_named(kind).read(points)
    fit = fit_op(kind, c, seconds(c), H100, method="kriging")
    miss = error(fit.leave_one_out(), fit.seconds)
    assert np.median(miss) < median
    assert np.percentile(miss, 95) < worst


def test_a_measured_point_comes_back_verbatim_and_is_graded_measured():
    points = gemm_points()
    noisy = gemm_seconds(points) * RNG.lognormal(0, 0.05, len(points["m"]))
    found = fit_op("gemm", points, noisy, H100, "kriging").predict(points)
    assert found.seconds == pytest.approx(noisy, rel=1e-12)
    assert set(found.grades) == {"measured"}


def test_equal_points_count_once_with_their_median():
    points = {"m": [8, 8, 8, 16, 32], "n": 4096, "k": 4096}
    fit = fit_op("gemm", points, [1e-5, 2e-5, 9e-5, 2e-5, 3e-5], H100)
    assert len(fit.seconds) == 4 - 1
    assert fit.predict({"m": 8, "n": 4096, "k": 4096}).seconds[0] == pytest.approx(2e-5)


def test_grades_say_where_a_prediction_comes_from():
    fit = fit_op("gemm", gemm_points(), gemm_seconds(gemm_points()), H100, "kriging")
    asked = {"m": [100, 9000, 64], "n": [6144, 6144, 5120], "k": [4096, 4096, 5120]}
    found = fit.predict(asked)
    assert found.grades == ["interpolated", "extrapolated", "transferred"]
    assert found.rel_sigma[0] < found.rel_sigma[2]


def test_a_shape_never_measured_is_carried_over():
    points = gemm_points()
    fit = fit_op("gemm", points, gemm_seconds(points), H100, "kriging")
    asked = gemm_points(shapes=((5120, 5120),))
    miss = error(fit.predict(asked).seconds, gemm_seconds(asked))
    assert np.median(miss) < 0.05


def test_beyond_the_points_the_residual_is_held_and_the_roofline_goes_on():
    points = {"bytes": 2.0 ** np.arange(8, 24), "gpus": 4.0}
    size = points["bytes"]
    truth = 8e-6 + 1.5 * size / (0.6 * H100.link_bytes_per_s)
    fit = fit_op("all_reduce", points, truth, H100, "kriging")
    far = fit.predict({"bytes": 2.0**28, "gpus": 4})
    assert far.seconds[0] == pytest.approx(
        8e-6 + 1.5 * 2.0**28 / (0.6 * H100.link_bytes_per_s), rel=0.1
    )
    near = fit.predict({"bytes": 2.0**20 * 1.4, "gpus": 4})
    assert far.rel_sigma[0] > near.rel_sigma[0]


def test_no_prediction_is_below_the_floor_of_physics():
    points = {"m": [64, 128, 256], "n": 4096, "k": 4096}
    fit = fit_op("gemm", points, [1.6e-5, 1.7e-5, 2e-5], H100)
    asked = {"m": 32768, "n": 4096, "k": 4096}
    assert fit.predict(asked).seconds[0] >= 2 * 32768 * 4096**2 / H100.flops


def test_without_points_it_is_the_datasheet_and_says_so():
    fit = fit_op("gemm", {}, [], H100)
    found = fit.predict({"m": 8192, "n": 8192, "k": 8192})
    assert found.grades == ["datasheet"]
    assert found.rel_sigma[0] == pytest.approx(0.3)
    assert 1 < found.seconds[0] / (2 * 8192**3 / H100.flops) < 2


def test_sigma_covers_the_errors_it_claims_to():
    rng = np.random.default_rng(3)
    points = gemm_points()
    noisy = gemm_seconds(points) * rng.lognormal(0, 0.03, len(points["m"]))
    fit = fit_op("gemm", points, noisy, H100, "kriging")
    between = {**points, "m": np.round(points["m"] * 1.3 + 1)}
    found = fit.predict(between)
    within = error(found.seconds, gemm_seconds(between)) < 2 * found.rel_sigma
    assert within.mean() > 0.75


def test_one_wild_point_does_not_move_the_roofline():
    points = decode_points()
    c = kind_named("decode_attention").read(points)
    truth = decode_seconds(c)
    clean = fit_op("decode_attention", points, truth, H100, "roofline").smooth(points)
    wild = truth.copy()
    wild[17] *= 20
    spoilt = fit_op("decode_attention", points, wild, H100, "roofline").smooth(points)
    assert error(spoilt, clean).max() < 0.05


def test_the_same_points_give_the_same_fit():
    points = gemm_points()
    first, second = (fit_op("gemm", points, gemm_seconds(points), H100) for _ in range(2))
    asked = {**points, "m": points["m"] + 3}
    assert (first.predict(asked).seconds == second.predict(asked).seconds).all()


def test_a_forest_is_taken_only_where_it_errs_less(monkeypatch):
    errors = {"kriging": 0.5, "forest": 0.02}

    class Fake:
        def __init__(self, method):
            self.method = method

        def _smooth(self, columns):
            return np.full(len(columns["m"]), 1e-5 * (1 + errors[self.method])), None

    monkeypatch.setattr(op_module, "has_forest", lambda: True)
    monkeypatch.setattr(op_module, "_fit_with", lambda *given: Fake(given[-1]))
    points = gemm_points()
    assert fit_op("gemm", points, np.full(len(points["m"]), 1e-5), H100).method == "forest"
    errors["forest"] = 0.9
    assert fit_op("gemm", points, np.full(len(points["m"]), 1e-5), H100).method == "kriging"


def test_the_forest_itself():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    points = gemm_points()
    fit = fit_op("gemm", points, gemm_seconds(points), H100, "forest")
    asked = {**points, "m": np.round(points["m"] * 1.2 + 1)}
    assert np.median(error(fit.predict(asked).seconds, gemm_seconds(asked))) < 0.05
    assert np.median(error(fit.leave_one_out(), fit.seconds)) < 0.08


@pytest.mark.parametrize("name", kind_names())
def test_every_kind_has_a_finite_roofline_that_grows(name):
    kind = kind_named(name)
    usual = {
        "heads": 32, "kv_heads": 8, "head_dim": 128, "n": 4096, "k": 4096, "gpus": 4,
        "hidden": 2048, "inter": 768, "experts": 128, "top_k": 8, "row_bytes": 8192,
        "batch": 4, "prefix": 0,
    }  # fmt: skip
    fixed = {column: usual[column] for column in kind.columns if column in usual}
    axis = next(c for c in kind.axes if c not in fixed)
    seconds = fit_op(name, {}, [], H100).smooth({**fixed, axis: 2.0 ** np.arange(1, 26)})
    assert np.isfinite(seconds).all()
    assert (np.diff(seconds) > -1e-12).all()
    assert seconds[-1] > 1.5 * seconds[0]


@pytest.mark.parametrize(
    ("kind", "columns", "seconds", "problem", "says"),
    [
        ("gemms", {}, [1.0], UnknownNameError, 'did you mean "gemm"'),
        ("gemm", {"m": 1, "n": 2, "kk": 3}, [1.0], UnknownNameError, "kk"),
        ("gemm", {"m": 1, "n": 2}, [1.0], InputError, "missing column k"),
        ("gemm", {"m": [1, 2], "n": [1, 2, 3], "k": 1}, [1.0], InputError, "different lengths"),
        ("gemm", {"m": [1, 2], "n": 1, "k": 1}, [1.0], InputError, "1 seconds for 2 points"),
        ("gemm", {"m": 1, "n": 1, "k": 1}, [0.0], InputError, "above 0"),
        ("gemm", {"m": -1, "n": 1, "k": 1}, [1.0], InputError, "m must be finite"),
    ],
)
def test_wrong_points_are_refused(kind, columns, seconds, problem, says):
    with pytest.raises(problem, match=says) as caught:
        fit_op(kind, columns, seconds, H100)
    assert says in str(caught.value)


def test_an_unknown_method_and_too_few_points_to_leave_out():
    points = {"m": [1, 2], "n": 64, "k": 64}
    with pytest.raises(UnknownNameError):
        fit_op("gemm", points, [1.0, 2.0], H100, "spline")
    with pytest.raises(InputError, match="2 points are too few"):
        fit_op("gemm", points, [1.0, 2.0], H100).leave_one_out()
