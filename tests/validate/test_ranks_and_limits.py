"""Rankings, correlations, small changes of a cluster, tolerances: against known values."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from infersim.calibrate.compare import perturb, series, tolerance
from infersim.calibrate.compare.match import match
from infersim.calibrate.compare.measured import Measured, Series
from infersim.calibrate.compare.ranking import kendall, ranking
from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios import build, grid, load
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.linear import LinearCost

# ---- Kendall τ-b ---------------------------------------------------------------------------------


def test_tau_of_known_rankings() -> None:
    assert kendall([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert kendall([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(2 / 3)


def test_tau_counts_inversions() -> None:
    for order in permutations(range(5)):
        inversions = sum(order[i] > order[j] for j in range(5) for i in range(j))
        assert kendall(range(5), order) == pytest.approx(1 - 2 * inversions / 10)


def test_tau_with_ties() -> None:
    # scipy.stats.kendalltau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) and with one list tied more
    assert kendall([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)
    assert kendall([1, 1, 2, 3], [1, 2, 2, 3]) == pytest.approx(0.8)
    assert kendall([1, 2, 3], [5, 5, 5]) is None
    assert kendall([1], [1]) is None


def cell(name: str, measured: float, simulated: float) -> dict[str, object]:
    row = {"metric": "ttft_s", "stat": "mean", "measured": measured, "simulated": simulated}
    return {"name": name, "rows": [row]}


def test_cells_are_ranked_the_best_first() -> None:
    (found,) = ranking([cell("a", 3, 30), cell("b", 1, 10), cell("c", 2, 40)])
    assert found["measured"] == [["b"], ["c"], ["a"]]
    assert found["simulated"] == [["b"], ["a"], ["c"]]
    assert found["tau"] == pytest.approx(1 / 3)
    (tied,) = ranking([cell("a", 2, 2), cell("b", 2, 1), cell("c", 1, 3)])
    assert tied["measured"] == [["c"], ["a", "b"]]


# ---- series --------------------------------------------------------------------------------------


def test_a_sample_holds_until_the_next_and_nothing_runs_outside() -> None:
    t_s, values = np.array([1.0, 2.0, 4.0]), np.array([5.0, 6.0, 7.0])
    at_s = np.array([0.5, 1.0, 1.9, 3.0, 4.0, 9.0])
    assert series.held(t_s, values, at_s).tolist() == [0, 5, 5, 6, 7, 0]


def test_correlation_of_equal_and_of_opposite_loads() -> None:
    t_s = np.arange(8.0)
    up, flat = np.arange(8.0), np.ones(8)
    found = series.compare(Series(t_s, up, up, None), Series(t_s, up[::-1], up, flat))
    assert found["running"]["correlation"] == pytest.approx(-1)
    assert found["waiting"]["correlation"] == pytest.approx(1)
    assert not found["waiting"]["gated"]
    assert "kv" not in found
    assert series.correlation(up, flat) is None


# ---- small changes -------------------------------------------------------------------------------


def test_a_scaled_cost_agrees_with_its_own_line() -> None:
    base = LinearCost(1001, 57, 13, 3)
    cost = perturb.ScaledCost(base, 1.01)
    for decodes, context in [(1, 1), (7, 12345), (256, 99_999)]:
        line = cost.decode_line(decodes, context)
        shape = StepShape(decodes, context, (), decodes)
        assert cost.duration_ps(shape) == line.base_ps + line.slope_ps * context
    mixed = StepShape(3, 500, ((100, 20),), 4)
    assert cost.duration_ps(mixed) == round(base.duration_ps(mixed) * 1.01)
    assert cost.prefill_ps(100, 0) == round(base.prefill_ps(100, 0) * 1.01)
    assert cost.joint_ps(5) == 0


def test_fewer_blocks_cut_a_context_limit_that_no_longer_fits(tiny: Path) -> None:
    source = load.read("tiny.yaml", ["cluster.kv_blocks=100"])
    (one,) = grid.cells(source)[1]
    config = build.assemble(one, source.folders).config
    (pool,) = perturb.changed(config, perturb.Change("less", kv_blocks=0.5)).pools
    assert config.pools[0].limits.kv_blocks == 99
    assert pool.limits.kv_blocks == 50
    assert pool.limits.max_model_len == 50 * 16


# ---- which run is of which cell ------------------------------------------------------------------


def run(name: str, cell: str = "") -> Measured:
    return Measured(name, "test", cell=cell)


def test_one_cell_takes_all_runs_as_repeats() -> None:
    assert [len(mine) for mine in match(["a"], [[run("x")], [run("y")]])] == [2]


def test_cells_of_a_folder_go_by_name_and_files_by_order() -> None:
    folder = [run("f", "b"), run("f", "a")]
    assert [[m.cell for m in mine] for mine in match(["a", "b"], [folder, folder])] == [
        ["a", "a"],
        ["b", "b"],
    ]
    by_order = match(["a", "b"], [[run("x")], [run("y")]])
    assert [mine[0].name for mine in by_order] == ["x", "y"]


@pytest.mark.parametrize("runs", [[[run("x")]], [[run("f", "a")]], [[run("f", "c")] * 3]])
def test_runs_that_fit_no_cells_are_refused(runs: list[list[Measured]]) -> None:
    with pytest.raises(InputError, match=r"no run of b|runs for 2 cells") as caught:
        match(["a", "b"], runs)
    assert "a, b" in caught.value.help


# ---- tolerances ----------------------------------------------------------------------------------


def result(**given: object) -> dict[str, object]:
    rows = [
        {"metric": "ttft_s", "stat": stat, "error": error}
        for stat, error in zip(("mean", "p50", "p90", "p99"), (0.01, -0.03, 0.0, 0.02), strict=True)
    ]
    found: dict[str, object] = {
        "name": "a",
        "rows": rows,
        "ttft_share_of_e2e": -0.004,
        "capacity": {"error": 0.0},
        "series": {"running": {"correlation": 0.97}},
        "steps": None,
    }
    return found | given


@pytest.mark.parametrize(
    ("text", "met", "worst"),
    [
        ("ttft=2", False, 3.0),
        ("ttft=3.1", True, 3.0),
        ("ttft.p99=2.5", True, 2.0),
        ("ttft-share=0.5", True, 0.4),
        ("kv-blocks=0", True, 0.0),
        ("running=0.98", False, 0.97),
        ("running=0.96", True, 0.97),
        ("tpot=5", False, None),  # not there to be compared
        ("decisions=0", False, None),
        ("tau=0.9", False, None),
    ],
)
def test_a_limit_keeps_or_not(text: str, met: bool, worst: float | None) -> None:
    (row,) = tolerance.check(tolerance.parse([text]), [result()], [])
    assert row["met"] is met
    assert row["worst"] == (None if worst is None else pytest.approx(worst))


def test_steps_have_limits_too() -> None:
    times = [{"kind": "all", "median": 0.02}]
    log = {"measured": 10, "simulated": 9, "same": 7, "times": times}
    limits = tolerance.parse(["step=3,decisions=2"])
    step, decisions = tolerance.check(limits, [result(steps=log)], [])
    assert (step["met"], step["worst"]) == (True, pytest.approx(2.0))
    assert (decisions["met"], decisions["worst"]) == (False, 3.0)


@pytest.mark.parametrize("text", ["ttft", "ttft=", "ttft=-1", "ttft=nan", "=2"])
def test_a_tolerance_is_a_name_and_a_number(text: str) -> None:
    with pytest.raises(InputError):
        tolerance.parse([text])


def test_a_tolerance_on_nothing_is_named() -> None:
    with pytest.raises(UnknownNameError, match='unknown tolerance "tpott"') as caught:
        tolerance.parse(["tpott=2"])
    assert 'did you mean "tpot"' in caught.value.help
    with pytest.raises(UnknownNameError, match='unknown statistic "p42"'):
        tolerance.parse(["ttft.p42=2"])
