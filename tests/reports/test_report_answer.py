"""The answer in words, the marks in the table, the text for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from infersim.reports import text
from infersim.reports.answer import answer, warnings
from infersim.reports.columns import columns
from infersim.reports.labels import labels
from infersim.reports.metrics import summarize
from infersim.reports.ranking import effects, rank
from infersim.reports.terminal import render
from infersim.sim.state.records import CellRecords

Make = Callable[..., CellRecords]
Summaries = list[dict[str, Any]]


@pytest.fixture(scope="module")
def summaries(grid: list[CellRecords]) -> Summaries:
    return [summarize(cell) for cell in grid]


def spaced(found: str) -> str:
    return found.replace(text.NBSP, " ")


def test_labels_say_what_differs(grid: list[CellRecords], make_cell: Make) -> None:
    assert labels(grid)[:3] == ["lru · round-robin", "lru · session-sticky", "lfu · round-robin"]
    odd = [
        replace(grid[0], name=name, params={"pool.kv_blocks": n, "evict": plug, "seed": 1})
        for name, n, plug in (("x", 10, "my/own.py:Mine"), ("y", 20, "lru"))
    ]
    assert labels(odd) == ["kv_blocks=10 · own.py:Mine", "kv_blocks=20 · lru"]
    assert labels([replace(cell, params={}) for cell in odd]) == ["x", "y"]
    pools = [{"pools": [{"name": "prefill", "role": "prefill", "replicas": i}]} for i in (1, 2)]
    split = [replace(c, params={"cluster": p}) for c, p in zip(odd, pools, strict=True)]
    assert labels(split) == ["x", "y"]  # a structure that nobody can read


def test_the_best_cell_is_the_fastest_that_finishes(
    grid: list[CellRecords], summaries: Summaries
) -> None:
    ranking = rank(grid, summaries)
    means = [metrics["e2e_s"]["mean"] for metrics in summaries]
    assert ranking.best == means.index(min(means))
    assert ranking.worst == means.index(max(means))
    lame = [dict(m) for m in summaries]
    lame[ranking.best]["requests"] = {"arrived": 576, "finished": 300, "failed": 276, "shed": 0}
    assert rank(grid, lame).best != ranking.best, "it finishes half of what the others finish"


def test_an_oracle_is_a_bound_and_never_best(grid: list[CellRecords], summaries: Summaries) -> None:
    top = rank(grid, summaries).best
    assert top is not None
    cells = [replace(cell, oracle=i == top) for i, cell in enumerate(grid)]
    ranking = rank(cells, summaries)
    assert ranking.bound == top
    assert ranking.best != top
    assert "is a bound, not a choice" in answer(cells, summaries)
    assert top not in columns(summaries)[0].best(summaries, {top})


def test_an_oracle_alone_is_answered_as_a_bound(make_cell: Make) -> None:
    cell = make_cell(name="belady", oracle=True)
    said = spaced(answer([cell], [summarize(cell)]))
    assert said.startswith("A bound, since its policies see the future. ")
    assert "finished: half of them got their first token within" in said


def test_goodput_ranks_when_there_is_an_slo(make_cell: Make) -> None:
    cells = [
        make_cell(f"n={n}", {"n": n}, keep=keep, slo={"ttft_s": 3.0})
        for n, keep in enumerate((0.3, 0.9))
    ]
    ranking = rank(cells, [summarize(cell) for cell in cells])
    assert (ranking.measure, ranking.best) == ("goodput", 1)


def test_effects_of_each_key(grid: list[CellRecords], summaries: Summaries) -> None:
    ranking = rank(grid, summaries)
    found = dict(effects(grid, ranking))
    assert set(found) == {"policies.eviction", "policies.routing"}
    means = [sum(ranking.values[i::2]) / 6 for i in (0, 1)]  # type: ignore[arg-type]
    assert found["policies.routing"] == pytest.approx(max(means) / min(means) - 1)
    assert effects(grid[:3], ranking) == [], "three cells are no grid"


def test_the_answer_names_best_first_and_hit_rates(
    grid: list[CellRecords], summaries: Summaries
) -> None:
    found = spaced(answer(grid, summaries))
    assert found.startswith("session-ttl · session-sticky is best: mean end-to-end latency ")
    assert "less than the first cell, lru · round-robin; hit rate 72.5 % against 34.0 %." in found


def test_the_answer_when_nothing_differs(grid: list[CellRecords], summaries: Summaries) -> None:
    twins = [grid[0], replace(grid[0], name="twin", params={"policies.eviction": "x"})]
    assert "within 1 % of one another" in answer(twins, [summaries[0]] * 2)


def test_the_answer_when_the_first_is_best(grid: list[CellRecords], summaries: Summaries) -> None:
    pair, metrics = [grid[9], grid[4]], [summaries[9], summaries[4]]
    found = spaced(answer(pair, metrics))
    assert found.startswith("session-ttl · session-sticky, the first cell, is best")
    assert found.endswith(" % more.")


def test_warnings_name_overload_losses_and_small_samples(
    grid: list[CellRecords], summaries: Summaries, make_cell: Make
) -> None:
    over = [dict(m) for m in summaries]
    over[3] |= {"saturation": over[3]["saturation"] | {"verdict": "OVERLOADED"}}
    found = warnings(grid, over)
    assert found[0].startswith("1 of 12 cells are OVERLOADED (lfu · session-sticky)")
    assert found[1].startswith("24 of 6,912 requests failed or were shed in 12 cells")
    small = make_cell(sessions=3, turns=2)
    assert "p90, p95, p99" in warnings([small], [summarize(small)])[0]


def test_the_terminal_fits(grid: list[CellRecords], summaries: Summaries) -> None:
    over = [m | {"saturation": m["saturation"] | {"verdict": "OVERLOADED"}} for m in summaries]
    cells = [replace(cell, oracle=i == 3, name=f"{i}") for i, cell in enumerate(grid * 2)]
    for shown in (render("agent_loop", grid, summaries), render("many", cells, over * 2)):
        lines = shown.split("\n")
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 80
    assert "more cells in the report" in shown


def test_the_terminal_marks_the_best(grid: list[CellRecords], summaries: Summaries) -> None:
    lines = render("agent_loop", grid, summaries).split("\n")
    [best] = [line for line in lines if line.startswith("★")]
    assert "session-ttl · session-sticky" in best
    assert "★72.5 %" in best
    [first] = [line for line in lines if line.startswith("  lru · round-robin")]
    assert first.endswith("first")


def test_the_terminal_shows_one_cell_as_latencies(make_cell: Make) -> None:
    cell = make_cell(slo={"ttft_s": 60.0})
    shown = render("one", [cell], [summarize(cell)])
    assert "✗ SLO missed" in shown or "✓ SLO met" in shown
    assert [line.split()[0] for line in shown.split("\n") if line.startswith(("T", "I", "E"))] == [
        "TTFT",
        "TPOT",
        "ITL",
        "E2E",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.01234, "0.0123"), (-4.567, "−4.57"), (999.6, "1,000"), (78912, "78,900")],
)
def test_three_significant_digits(value: float, shown: str) -> None:
    assert text.significant(value) == shown


def test_units() -> None:
    assert spaced(text.time(9.99)) == "9,990 ms"
    assert spaced(text.time(10.04)) == "10.0 s"
    assert text.time(None) == text.MISSING
    assert [spaced(t) for t in text.times([0.5, 20])] == ["0.500 s", "20.0 s"]
    assert spaced(text.size(1536)) == "1.50 KiB"
    assert spaced(text.size(2.0**50)) == "1,020 TiB"
    assert spaced(text.compact(3_171_693)) == "3.17 M"
    assert spaced(text.change(90, 100)) == "−10.0 %"
    assert text.change(1, 0) == ""
    assert text.change(100.01, 100) == "="
    assert spaced(text.points(0.5, 0.25)) == "+25.0 pt"
    assert spaced(text.compared(110, 100)) == "10.0 % more than"
    assert text.plural(1, "cell") == "1 cell"
