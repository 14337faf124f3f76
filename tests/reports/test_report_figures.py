"""Figures are valid plotly, small, and say what they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from infersim.reports import figures
from infersim.reports.figures.style import MAX_SERIES, Figure
from infersim.reports.labels import labels
from infersim.reports.metrics import summarize
from infersim.reports.ranking import rank
from infersim.sim.state.records import CellRecords

Make = Callable[..., CellRecords]


def every(cells: list[CellRecords], bins: int = 500) -> Iterator[tuple[str, Figure | None]]:
    summaries = [summarize(cell) for cell in cells]
    names, ranking = labels(cells), rank(cells, summaries)
    drawn, focus = figures.lines(names, ranking), ranking.best or 0
    yield "hit_rate", figures.hit_rate(names, summaries)
    yield "by_turn", figures.hit_rate_by_turn(drawn, summaries, focus)
    yield "by_capacity", figures.hit_rate_by_capacity(cells, summaries)
    yield "tokens", figures.missed_tokens(names, summaries, focus)
    yield "seconds", figures.missed_seconds(names, summaries, focus)
    yield "diverged", figures.diverged_by_segment(names, summaries, focus)
    values = figures.samples(cells)
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        yield metric, figures.ecdf(metric, drawn, values, cells[0].slo, focus)
    yield "split", figures.time_split(names, summaries, focus)
    yield "series", figures.over_time(cells[0], bins)
    yield "timelines", figures.timelines(cells[0])
    yield "preemptions", figures.preemptions(names, summaries, focus)
    yield "busy", figures.busy(names, summaries, focus)


@pytest.fixture(scope="module")
def drawn(grid: list[CellRecords]) -> dict[str, Figure | None]:
    return dict(every([replace(cell, slo={"ttft_s": 4.0}) for cell in grid]))


@pytest.mark.parametrize(
    ("rates", "title"),
    [
        ([0.2, 0.5, 0.9], "Hit rate rises from 20.0 % at turn 0 to 90.0 % at turns 32–60"),
        ([0.5, 0.5, 0.5], "Hit rate goes from 50.0 % at turn 0 to 50.0 % at turns 32–60"),
        (
            [0.9, 0.1, 0.8],
            "Hit rate falls from 90.0 % at turn 0 to 80.0 % at turns 32–60, with 10.0 % at turn 1",
        ),
    ],
)
def test_the_title_of_turns_says_its_bins_and_its_low(
    grid: list[CellRecords], rates: list[float], title: str
) -> None:
    spans = ((0, 0), (1, 1), (32, 60))
    rows = [
        {"turn": first, "to_turn": last, "hit_rate": rate, "requests": 3}
        for (first, last), rate in zip(spans, rates, strict=True)
    ]
    line = figures.lines(["one", "other"], rank(grid, [summarize(cell) for cell in grid]))[0]
    summaries = [{"hit_rate_by_turn": rows}, {"hit_rate_by_turn": []}]
    for found, said in ((summaries[:1], title), (summaries, f"{title}, in {line.label}")):
        figure = figures.hit_rate_by_turn([replace(line, cell=0)], found, 0)
        assert figure is not None
        assert figure.title.replace("\u00a0", " ") == said


def test_they_are_valid_plotly(drawn: dict[str, Figure | None]) -> None:
    for name, figure in drawn.items():
        if name == "by_capacity":
            assert figure is None, "no capacity is compared"
            continue
        assert figure is not None, name
        go.Figure(data=figure.data, layout=figure.layout)
        json.dumps([figure.data, figure.layout], allow_nan=False)
        assert figure.title
        assert figure.alt


def test_traces_are_short_and_axes_named(drawn: dict[str, Figure | None]) -> None:
    for figure in filter(None, drawn.values()):
        for trace in figure.data:
            assert len(trace.get("y", [])) <= 5000
        assert figure.layout["xaxis"]["title"]["text"]
        colors = {
            (trace.get("line") or trace.get("marker"))["color"]
            for trace in figure.data
            if "color" in (trace.get("line") or trace.get("marker") or {})
        }
        assert len(colors) <= MAX_SERIES + 1


def test_bars_start_at_zero_and_latencies_are_log(drawn: dict[str, Figure | None]) -> None:
    for name in ("hit_rate", "tokens", "seconds", "split", "preemptions", "busy"):
        figure = drawn[name]
        assert figure is not None
        axis = figure.layout["xaxis"]
        assert axis.get("rangemode") == "tozero" or axis["range"][0] == 0
        assert axis.get("type") != "log"
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        figure = drawn[name]
        assert figure is not None
        assert figure.layout["xaxis"]["type"] == "log"
        assert "(log)" in figure.layout["xaxis"]["title"]["text"]


def test_twelve_cells_single_out_three(drawn: dict[str, Figure | None]) -> None:
    figure = drawn["ttft_s"]
    assert figure is not None
    assert len(figure.data) == 12
    assert sum(trace["opacity"] == 1.0 for trace in figure.data) == 3
    turns = drawn["by_turn"]
    assert turns is not None
    assert [key.label.split(":")[0] for key in turns.legend] == [
        "best",
        "first",
        "worst",
        "9 others",
    ]


def test_the_limit_is_drawn(drawn: dict[str, Figure | None]) -> None:
    figure = drawn["ttft_s"]
    assert figure is not None
    assert figure.layout["shapes"][0]["x0"] == 4.0
    other = drawn["tpot_s"]
    assert other is not None
    assert other.layout["shapes"] == []


def test_an_ecdf_ends_at_its_quantiles(make_cell: Make) -> None:
    cell = make_cell()
    [values] = figures.samples([cell])
    line = figures.lines(["c"], rank([cell], [summarize(cell)]))
    figure = figures.ecdf("e2e_s", line, [values], {}, 0)
    assert figure is not None
    [trace] = figure.data
    half = trace["y"].index(pytest.approx(50, abs=1))
    assert trace["x"][half] == pytest.approx(np.quantile(values["e2e_s"], 0.5), rel=0.03)
    assert trace["x"][-1] == pytest.approx(values["e2e_s"].max(), rel=1e-3)


def test_bars_are_the_metrics(grid: list[CellRecords], drawn: dict[str, Figure | None]) -> None:
    figure = drawn["tokens"]
    assert figure is not None
    metrics = summarize(grid[3])["missed"]
    shown = sum(trace["x"][3] for trace in figure.data)
    assert shown == pytest.approx(sum(row["tokens"] for row in metrics.values()), rel=1e-3)


def test_capacity_is_drawn_when_it_is_compared(make_cell: Make) -> None:
    cells = [
        make_cell(
            f"{n} {name}",
            {"pool.kv_blocks": n, "eviction": name},
            kv_blocks=n,
            keep=n / 20_000,
            sessions=6,
        )
        for n in (4000, 8000, 16_000)
        for name in ("lru", "lfu")
    ]
    figure = dict(every(cells))["by_capacity"]
    assert figure is not None
    assert [trace["name"] for trace in figure.data] == ["lru", "lfu"]
    assert figure.data[0]["x"] == [4000, 8000, 16_000]
    assert figure.data[0]["y"] == sorted(figure.data[0]["y"])
    go.Figure(data=figure.data, layout=figure.layout)


def test_series_sum_replicas_and_keep_to_the_bins(make_cell: Make) -> None:
    cell = make_cell()
    figure = figures.over_time(cell, 100)
    assert figure is not None
    traces = {trace["name"]: trace for trace in figure.data}
    assert max(len(trace["y"]) for trace in figure.data) == 100
    series = cell.series
    waiting = series["waiting"][series["replica"] == 0] + series["waiting"][series["replica"] == 1]
    assert max(traces["most waiting"]["y"]) == waiting.max()
    times = series["t_ps"][series["replica"] == 0] / 1e12
    first = times < traces["waiting"]["dx"]
    running = series["running"]
    both = running[series["replica"] == 0] + running[series["replica"] == 1]
    assert traces["running"]["y"][0] == pytest.approx(both[first].mean(), rel=1e-2)


def test_an_empty_bin_repeats_the_sample_before(make_cell: Make) -> None:
    cell = make_cell(sessions=2, turns=1)
    times = np.array([0, 1, 2, 9], dtype=np.int64) * 10**12
    series = {name: np.zeros(4, dtype=np.int64) for name in cell.series}
    series |= {"t_ps": times, "waiting": np.array([5, 6, 7, 1])}
    cell = replace(cell, series=series, totals=cell.totals | {"simulated_ps": 12 * 10**12})
    figure = figures.over_time(cell, 4)
    assert figure is not None
    [waiting] = [trace for trace in figure.data if trace["name"] == "waiting"]
    assert waiting["y"] == [6, 7, 7, 1]


def test_encoding_is_drawn_where_there_is_some(make_cell: Make) -> None:
    without, cell = make_cell(), make_cell()
    encoding = {**cell.requests, "encode_ps": cell.requests["scheduled_ps"].clip(0) // 2}
    encoding["encode_ps"] -= encoding["arrival_ps"] // 2
    cells = [without, replace(cell, name="encoders", requests=encoding)]
    summaries = [summarize(one) for one in cells]
    split = figures.time_split(["without", "encoders"], summaries, 1)
    assert split is not None
    (bars,) = [trace for trace in split.data if trace["name"] == "encode"]
    assert bars["x"][0] == 0 < bars["x"][1]
    for one, drawn in zip(cells, (False, True), strict=True):
        timelines = figures.timelines(one)
        assert timelines is not None
        assert ("encode" in {trace["name"] for trace in timelines.data}) == drawn


def test_timelines_keep_the_slowest(make_cell: Make) -> None:
    cell = make_cell()
    figure = figures.timelines(cell)
    assert figure is not None
    finished = cell.requests["status"] == "finished"
    e2e = (cell.requests["finish_ps"] - cell.requests["arrival_ps"])[finished]
    ids = cell.requests["request_id"][finished][np.argsort(-e2e, kind="stable")]
    assert figure.data[0]["customdata"][:12] == [f"r{i}" for i in ids[:12]]
    assert len(figure.data[0]["y"]) == 40
    total = sum(trace["x"][0] for trace in figure.data)
    assert total == pytest.approx(e2e.max() / 1e12, rel=1e-3)


def test_nothing_finished_draws_no_latency(make_cell: Make) -> None:
    cell = make_cell(sessions=2, turns=2)
    requests: dict[str, Any] = dict(cell.requests)
    n = len(requests["status"])
    requests["status"] = np.array(["shed"] * n, dtype=object)
    for name in ("scheduled_ps", "first_token_ps"):
        requests[name] = np.full(n, -1)
    found = dict(every([replace(cell, requests=requests)]))
    assert [name for name in ("ttft_s", "split", "timelines", "hit_rate") if found[name]] == []
    assert found["busy"] is not None


def test_names_cannot_write_markup_or_templates(make_cell: Make) -> None:
    evil = "<b>%{x}</b>"
    cells = [make_cell(f"{i}", {"k": k}, sessions=3) for i, k in enumerate((evil, "fine"))]
    for name, figure in every(cells):
        if figure is None:
            continue
        shown = json.dumps([figure.data, [n["text"] for n in figure.layout.get("annotations", [])]])
        assert "<b>%" not in shown, name
        assert "%{x}</b>" not in shown, name
