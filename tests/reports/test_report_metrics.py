"""Every figure of a run of four requests, worked by hand; then windows, bins and verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from infersim.policies.errors import InputError, UnknownNameError
from infersim.reports.metrics import MIN_SAMPLES, dumps, summarize
from infersim.sim.state.records import (
    REQUEST_COLUMNS,
    SERIES_COLUMNS,
    CellRecords,
    Columns,
    GapHistogram,
)

PS = 10**12
Row = Callable[..., tuple[Any, ...]]
Totals = Callable[..., dict[str, int]]


def s(seconds: float) -> int:
    return round(seconds * PS)


def cell_of(rows: list[tuple[Any, ...]], totals: dict[str, int], **given: Any) -> CellRecords:
    requests = Columns(REQUEST_COLUMNS)
    for row in rows:
        requests.append(*row)
    base: dict[str, Any] = {"name": "c", "params": {}, "itl": GapHistogram(), "capacity": []}
    return CellRecords(
        requests=requests.arrays(),
        series=Columns(SERIES_COLUMNS).arrays(),
        totals=totals,
        **(base | given),
    )


@pytest.fixture
def four(make_row: Row, make_totals: Totals) -> CellRecords:
    """Two turns of one session, a refused request, and one with a single output token."""
    times = ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps")

    def row(seconds: tuple[float, ...], **given: Any) -> tuple[Any, ...]:
        at = {name: s(t) if t >= 0 else -1 for name, t in zip(times, seconds, strict=True)}
        return make_row(**(at | {"replica": 0} | given))

    rows = [
        row(
            (0, 1, 3, 7),
            request_id=0,
            session=0,
            prompt_tokens=100,
            output_tokens=5,
            never_seen_tokens=90,
            never_seen_ps=s(1.8),
            rounding_tokens=10,
            rounding_ps=s(0.2),
            first_miss="system",
        ),
        row(
            (10, 10, 11, 14),
            request_id=1,
            session=0,
            turn=1,
            prompt_tokens=200,
            output_tokens=4,
            hit_tokens=160,
            evicted_tokens=20,
            evicted_ps=s(0.5),
            diverged_tokens=20,
            diverged_ps=s(0.25),
            first_miss="tools",
            preemptions=1,
            recomputed_tokens=30,
            transfer_bytes=1000,
            transfer_ps=s(0.25),
        ),
        row(
            (12, -1, -1, 12),
            request_id=2,
            prompt_tokens=1000,
            status="failed",
            reason="prompt over the context limit",
            replica=-1,
        ),
        row(
            (13, 15, 16, 16),
            request_id=3,
            prompt_tokens=300,
            output_tokens=1,
            hit_tokens=150,
            elsewhere_tokens=150,
            elsewhere_ps=s(1),
            replica=1,
        ),
    ]
    itl = GapHistogram()
    itl.add(s(1), 0, 4, 1)
    itl.add(s(1), 0, 3, 1)
    totals = make_totals(
        steps=40,
        preemptions=1,
        evicted_blocks=7,
        simulated_ps=s(20),
        busy_ps=s(10),
        replicas=2,
        kv_blocks=64,
        link_bytes=1000,
        link_busy_ps=s(5),
        failed_transfers=3,
    )
    return cell_of(
        rows,
        totals,
        itl=itl,
        slo={"ttft_s": 2.0, "e2e_s": 5.0},
        prices={"gpu_hour_usd": 3.6},
        capacity=[{"name": "main", "replicas": 2, "tp": 1}],
    )


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-8)


def test_counts_and_reasons(four: CellRecords) -> None:
    metrics = summarize(four)
    assert metrics["requests"] == {"arrived": 4, "finished": 3, "failed": 1, "shed": 0}
    assert metrics["failed_reasons"] == {"prompt over the context limit": 1}
    assert metrics["shed_reasons"] == {}
    assert metrics["window"] == {"from_s": 0, "requests": 4, "finished": 3, "duration_s": 16}
    assert (metrics["steps"], metrics["simulated_s"], metrics["kv_blocks"]) == (40, 20, 64)
    assert (metrics["preemptions"], metrics["evicted_blocks"]) == (1, 7)


def test_latencies(four: CellRecords) -> None:
    metrics = summarize(four)
    ttft, e2e = metrics["ttft_s"], metrics["e2e_s"]
    assert [ttft[k] for k in ("mean", "p50", "p90", "max", "n")] == near([7 / 3, 3, 3, 3, 3])
    assert [e2e[k] for k in ("mean", "p50", "p90", "p95", "p99", "max")] == near(
        [14 / 3, 4, 6.4, 6.7, 6.94, 7]
    )
    assert e2e["std"] == near(np.std([7, 4, 3]))
    assert metrics["tpot_s"]["n"] == 2, "a single output token has no TPOT"
    assert metrics["tpot_s"]["mean"] == near(1)
    assert metrics["itl_s"]["n"] == 7
    assert metrics["itl_s"]["mean"] == near(1)
    assert metrics["itl_s"]["p50"] == pytest.approx(1, rel=1e-3)
    assert metrics["queue_s"]["mean"] == near(1)
    split = metrics["time_split_s"]
    assert list(split.values()) == near([1, 1.25, 0.25 / 3, 7 / 3])
    assert sum(split.values()) == near(e2e["mean"])


def test_time_on_encoders_is_no_queueing(make_row: Row, make_totals: Totals) -> None:
    """It has a part of its own where there is any, and is never longer than the wait."""
    times = ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps")

    def split(*encoded_s: float) -> dict[str, float]:
        rows = [
            make_row(
                **{name: s(at) for name, at in zip(times, (1, 4, 5, 7), strict=True)},
                output_tokens=3,
                encode_ps=s(seconds),
            )
            for seconds in encoded_s
        ]
        found: dict[str, float] = summarize(cell_of(rows, make_totals()))["time_split_s"]
        return found

    without = {"queue": 3, "prefill": 1, "transfer": 0, "decode": 2}
    assert split(0, 0) == without
    assert split(2, 0) == {"encode": 1, **without, "queue": 2}
    assert list(split(2, 0)) == ["encode", *without]
    assert split(9) == {"encode": 3, **without, "queue": 0}


def test_compiling_a_grammar_is_no_queueing(make_row: Row, make_totals: Totals) -> None:
    """Likewise; and without any grammar there is neither part nor metric."""
    times = {"arrival_ps": s(1), "scheduled_ps": s(4), "first_token_ps": s(5), "finish_ps": s(7)}

    def summary(*waits_s: float, encoded_s: float = 0) -> dict[str, Any]:
        row = make_row(**times, output_tokens=3, encode_ps=s(encoded_s))
        cell = cell_of([row] * len(waits_s), make_totals(compiled_grammars=2))
        cell.requests["grammar_ps"] = np.array([round(w * 1e12) if w >= 0 else -1 for w in waits_s])
        found: dict[str, Any] = summarize(cell)
        return found

    without = {"queue": 3, "prefill": 1, "transfer": 0, "decode": 2}
    assert summary(-1, 0)["time_split_s"] == without
    assert summary(2, 0)["time_split_s"] == {"grammar": 1, **without, "queue": 2}
    both = {"encode": 2, "grammar": 1, **without, "queue": 0}
    assert summary(9, encoded_s=2)["time_split_s"] == both
    structured = summary(2, 0, -1, 0.5)["structured"]
    assert {name: structured[name] for name in ("requests", "share", "waited")} == {
        "requests": 3,
        "share": 0.75,
        "waited": 2,
    }
    assert structured["grammar_s"]["mean"] == near(2.5 / 3)
    assert structured["compiled_grammars"] == 2
    cell = cell_of([make_row(**times, output_tokens=3)], make_totals())
    assert "structured" not in summarize(cell)


def test_hits_and_misses(four: CellRecords) -> None:
    metrics = summarize(four)
    assert (metrics["hit_tokens"], metrics["prompt_tokens"]) == (310, 600)
    assert metrics["hit_rate"] == near(310 / 600), "the refused prompt never looked at the cache"
    assert [(r["turn"], r["hit_rate"]) for r in metrics["hit_rate_by_turn"]] == [(0, 0), (1, 0.8)]
    assert metrics["missed"] == {
        "never_seen": {"tokens": 90, "s": 1.8, "requests": 1},
        "evicted": {"tokens": 20, "s": 0.5, "requests": 1},
        "diverged": {"tokens": 20, "s": 0.25, "requests": 1},
        "elsewhere": {"tokens": 150, "s": 1, "requests": 1},
        "rounding": {"tokens": 10, "s": 0.2, "requests": 1},
    }
    segments = [(r["segment"], r["requests"]) for r in metrics["missed_by_segment"]]
    assert segments == [("(no label)", 1), ("system", 1), ("tools", 1)]
    assert metrics["missed_by_segment"][2]["diverged_s"] == 0.25
    missed = sum(row["tokens"] for row in metrics["missed"].values())
    assert missed + metrics["hit_tokens"] == metrics["prompt_tokens"]


def test_rates_goals_and_money(four: CellRecords) -> None:
    metrics = summarize(four)
    assert metrics["output_tokens_per_s"] == near(10 / 16)
    assert metrics["total_tokens_per_s"] == near(610 / 16)
    assert metrics["requests_per_s"] == near(3 / 16)
    assert metrics["goodput_rps"] == near(1 / 16)
    assert metrics["slo_attainment"] == near(1 / 4)
    assert metrics["slo"]["ttft_s"] == {"limit_s": 2, "attainment": 0.25, "met": False}
    assert metrics["slo"]["e2e_s"]["attainment"] == near(2 / 4)
    assert metrics["slo_met"] is False
    assert metrics["usd_per_million_output_tokens"] == near(2 * 3.6 / 3600 / (10 / 16) * 1e6)
    assert metrics["busy_share"] == near(10 / 40)
    assert metrics["requests_max_over_mean"] == near(2 / 1.5)
    assert metrics["recomputed_tokens"] == 30
    assert metrics["transfer"] == {
        "requests": 1,
        "bytes": 1000,
        "mean_s": 0.25,
        "link_bytes": 1000,
        "link_busy_share": 0.25,
        "failed": 3,
    }
    assert metrics["role_switches"] == 0


def test_the_warm_up_leaves_out_what_arrived_before(four: CellRecords) -> None:
    metrics = summarize(replace(four, warm_up_ps=s(5)))
    assert metrics["requests"]["arrived"] == 4, "counts are of the whole run"
    assert metrics["window"] == {"from_s": 5, "requests": 3, "finished": 2, "duration_s": 6}
    assert metrics["hit_rate"] == near(310 / 500)
    assert metrics["ttft_s"]["n"] == 2
    assert metrics["output_tokens_per_s"] == near(5 / 6)
    assert metrics["slo_attainment"] == near(1 / 3)


def test_without_goals_and_prices_there_are_none(four: CellRecords) -> None:
    metrics = summarize(replace(four, slo={}, prices={}))
    keys = ("goodput_rps", "slo_attainment", "slo_met", "usd_per_million_output_tokens")
    assert [metrics[key] for key in keys] == [None] * 4


def test_unknown_goals_and_prices_are_refused(four: CellRecords) -> None:
    with pytest.raises(UnknownNameError, match="ttft_s"):
        summarize(replace(four, slo={"ttft": 1.0}))
    with pytest.raises(InputError, match="gpu_hour_usd"):
        summarize(replace(four, prices={"hour": 1.0}))


def test_percentiles_say_when_the_sample_is_too_small(make_cell: Any) -> None:
    for name, n in MIN_SAMPLES.items():
        p = float(name[1:]) / 100
        assert p**n <= 0.025 < p ** (n - 1)
    small = summarize(make_cell(sessions=5, turns=8))["e2e_s"]
    assert small["n"] == 40
    assert small["unsupported"] == ["p95", "p99"]


def test_no_request_gives_finite_figures(make_totals: Totals) -> None:
    metrics = summarize(cell_of([], make_totals()))
    assert metrics["requests"]["arrived"] == 0
    assert metrics["hit_rate"] is None
    assert metrics["ttft_s"]["p99"] is None
    assert metrics["output_tokens_per_s"] == 0
    json.loads(dumps(metrics), parse_constant=pytest.fail)


def test_the_same_records_give_the_same_bytes(grid: list[CellRecords]) -> None:
    assert dumps(summarize(grid[0])) == dumps(summarize(grid[0]))


def test_dumps_rounds_and_keeps_order() -> None:
    odd = {"b": np.float64(1 / 3), "a": [float("nan"), np.int64(2), np.bool_(True)], "c": 1e300}
    expected = {"b": 0.333333333, "a": [None, 2, True], "c": 1e300}
    assert json.loads(dumps(odd)) == expected
    assert list(json.loads(dumps(odd))) == ["b", "a", "c"]
    assert dumps({"x": float("inf")}) == '{\n  "x": null\n}\n'


def test_late_turns_share_bins(make_row: Row, make_totals: Totals) -> None:
    rows = [
        make_row(request_id=i, session=1, turn=turn, scheduled_ps=1, prompt_tokens=10, hit_tokens=i)
        for i, turn in enumerate((0, 31, 32, 63, 64, 100))
    ]
    by_turn = summarize(cell_of(rows, make_totals()))["hit_rate_by_turn"]
    spans = [(row["turn"], row["to_turn"], row["requests"], row["hit_tokens"]) for row in by_turn]
    assert spans == [(0, 0, 1, 0), (31, 31, 1, 1), (32, 63, 2, 5), (64, 100, 2, 9)]


def test_many_segments_are_pooled(make_row: Row, make_totals: Totals) -> None:
    rows = [
        make_row(request_id=i, scheduled_ps=1, first_miss=f"turn {i}", diverged_tokens=100 - i)
        for i in range(20)
    ]
    segments = summarize(cell_of(rows, make_totals()))["missed_by_segment"]
    assert len(segments) == 12
    assert segments[0]["segment"] == "turn 0"
    assert segments[-1]["segment"] == "(9 others)"
    assert sum(row["diverged_tokens"] for row in segments) == sum(100 - i for i in range(20))


def queue(make_row: Row, gap_s: float, service_s: float, n: int = 200) -> list[tuple[Any, ...]]:
    """One server: a request every *gap_s*, served for *service_s* in order."""
    rows, free = [], 0
    for i in range(n):
        start = max(free, s(i * gap_s))
        free = start + s(service_s)
        rows.append(
            make_row(
                request_id=i,
                arrival_ps=s(i * gap_s),
                scheduled_ps=start,
                first_token_ps=free,
                finish_ps=free,
                output_tokens=1,
            )
        )
    return rows


@pytest.mark.parametrize(
    ("gap_s", "service_s", "verdict"),
    [(1.0, 0.5, "STABLE"), (1.0, 1.5, "OVERLOADED"), (0.0, 1.0, "BACKLOGGED")],
)
def test_saturation_verdicts(
    make_row: Row, make_totals: Totals, gap_s: float, service_s: float, verdict: str
) -> None:
    cell = cell_of(queue(make_row, gap_s, service_s), make_totals())
    assert summarize(cell)["saturation"]["verdict"] == verdict


def test_saturation_evidence(make_row: Row, make_totals: Totals) -> None:
    cell = cell_of(queue(make_row, 1.0, 1.5), make_totals())
    found = summarize(cell)["saturation"]
    assert found["arrivals_per_s"] == pytest.approx(1, rel=0.02)
    assert found["completions_per_s"] == pytest.approx(1 / 1.5, rel=0.02)
    assert found["queue_slope_per_s"] == pytest.approx(1 - 1 / 1.5, rel=0.05)


def test_a_standing_queue_is_a_backlog(make_row: Row, make_totals: Totals) -> None:
    rows = queue(make_row, 1.0, 1.0)
    late = [
        make_row(
            request_id=1000 + i,
            arrival_ps=s(i),
            scheduled_ps=s(i + 20),
            first_token_ps=s(i + 21),
            finish_ps=s(i + 21),
        )
        for i in range(200)
    ]
    found = summarize(cell_of(rows + late, make_totals()))["saturation"]
    assert found["verdict"] == "BACKLOGGED"
    assert abs(found["queue_slope_per_s"]) < 0.01


def test_fairness_between_tenants(make_row: Row, make_totals: Totals) -> None:
    """One tenant has three times the service of the other, and a fifth of its wait."""

    def row(number: int, tenant: str, first_s: float, output: int) -> tuple[Any, ...]:
        return make_row(
            request_id=number,
            tenant=tenant,
            arrival_ps=0 if number < 4 else s(50),
            scheduled_ps=0,
            first_token_ps=s(first_s),
            finish_ps=s(first_s + 1),
            prompt_tokens=10,
            output_tokens=output,
        )

    rows = [row(i, "a", 1.0, 10) for i in range(3)] + [row(3, "b", 5.0, 10)]
    late = row(4, "b", 55.0, 999)
    found = summarize(cell_of([*rows, late], make_totals()))["fairness"]
    assert found["tenants"] == 2
    assert found["jain_service"] == pytest.approx((90 + 30) ** 2 / (2 * (90**2 + 30**2)))
    assert found["jain_ttft"] == pytest.approx((1 + 5) ** 2 / (2 * (1 + 25)))
    assert summarize(cell_of(rows[:3], make_totals()))["fairness"] is None
