"""Each format of a measured run, told by content, and what is wrong with it."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infersim.calibrate.compare.figures import figures
from infersim.calibrate.compare.formats import load
from infersim.calibrate.compare.measured import Measured
from infersim.policies.errors import InputError

BENCH: dict[str, Any] = {
    "model_id": "m",
    "max_concurrency": None,
    "duration": 4.0,
    "request_throughput": 0.5,
    "mean_ttft_ms": 999.0,
    "input_lens": [100, 50, 200],
    "output_lens": [3, 0, 2],
    "start_times": [7.5, 7.0, 7.0],
    "ttfts": [0.5, 0.0, 0.25],
    "itls": [[0.25, 0.75], [], [1.0]],
    "errors": ["", "boom", ""],
}


def one(path: Path, **given: Any) -> Measured:
    (found,) = load(path, **given)
    return found


def written(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


# ---- vLLM's request log --------------------------------------------------------------------------


def test_latencies_count_from_arrival_on_clocks_put_together(vllm_log: Path) -> None:
    run = one(vllm_log)
    assert run.requests is not None
    assert run.requests.arrival_s is not None
    assert run.requests.arrival_s.tolist() == [0, 0.25, 0.5]
    np.testing.assert_allclose(run.requests.ttft_s, [0.5, 0.75, 1.5])
    np.testing.assert_allclose(run.requests.e2e_s, [1.5, 2.75, 1.5])
    np.testing.assert_allclose(run.requests.tpot_s(), [0.1, 0.1, np.nan])
    assert "20.0 ms after arrival" in run.notes[0]


def test_the_recorded_figure_counts_from_queued(vllm_log: Path) -> None:
    run = one(vllm_log, ttft_from="queued")
    assert run.requests is not None
    np.testing.assert_allclose(run.requests.ttft_s, [0.5, 0.70, 1.49])
    assert any("queued_ts" in note for note in run.notes)


def test_throughput_runs_from_the_first_arrival_to_the_last_token(vllm_log: Path) -> None:
    found = figures(one(vllm_log))
    assert found["duration_s"]["value"] == pytest.approx(3.0)
    assert found["output_tokens_per_s"]["value"] == pytest.approx(33 / 3)


def test_requests_of_the_warm_up_are_left_out(vllm_log: Path) -> None:
    assert figures(one(vllm_log), warm_up_s=0.2)["ttft_s"]["n"] == 2


def test_what_lies_beside_the_log_is_read(vllm_log: Path) -> None:
    rows = "t,running,waiting,kv_cache_pct\n1,1,0,25\n2,2,1,50\n"
    with gzip.open(vllm_log.with_name("small_timeseries.csv.gz"), "wt") as file:
        file.write(rows)
    meta = {
        "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 256},
        "kv_cache": {"num_gpu_blocks": 2588, "block_size": 16, "enable_prefix_caching": True},
        "resolved_config": {"scheduler_config": {"async_scheduling": False}},
    }
    written(vllm_log.with_name("small_meta.json"), meta)
    run = one(vllm_log)
    assert run.kv_blocks == 2587  # one of them is vLLM's null block
    assert run.settings["tp"] == 2
    assert run.settings["engine.async_scheduling"] is False
    assert run.series is not None
    assert run.series.kv is not None
    assert run.series.kv.tolist() == [0.25, 0.5]


def test_a_kv_series_of_zeros_is_no_empty_cache(vllm_log: Path) -> None:
    path = vllm_log.with_name("small_timeseries.csv")
    path.write_text("t,running,waiting,kv_cache_pct\n1,1,0,0\n2,2,1,0\n")
    run = one(vllm_log)
    assert run.series is not None
    assert run.series.kv is None
    assert any("fault of the recorder" in note for note in run.notes)


def test_a_request_that_never_ended_is_counted_apart(vllm_log: Path) -> None:
    lines = vllm_log.read_text().splitlines()
    row = json.loads(lines[1]) | {"last_token_ts": None}
    vllm_log.write_text("\n".join([lines[0], json.dumps(row), lines[2]]) + "\n")
    run = one(vllm_log)
    assert run.unfinished == 1
    assert run.requests is not None
    assert len(run.requests) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_toks": 0}, "input_toks must lie in"),
        ({"queued_ts": "soon"}, "queued_ts must be a finite number"),
        ({"first_token_ts": 1.0}, "must rise"),
    ],
)
def test_a_wrong_row_is_named(vllm_log: Path, change: dict[str, Any], message: str) -> None:
    lines = vllm_log.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    vllm_log.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message) as caught:
        load(vllm_log)
    assert caught.value.where == f"{vllm_log}:2"


def test_a_log_that_is_cut_off_is_refused(vllm_log: Path) -> None:
    vllm_log.write_text(vllm_log.read_text()[:-30])
    with pytest.raises(InputError, match="cut off"):
        load(vllm_log)


# ---- vllm bench serve ----------------------------------------------------------------------------


def test_bench_lists_are_requests(tmp_path: Path) -> None:
    run = one(written(tmp_path / "bench.json", BENCH))
    assert run.clock == "client"
    assert run.unfinished == 1
    assert run.requests is not None
    assert run.requests.prompt_tokens.tolist() == [200, 100]  # by start, not by place
    assert run.requests.ttft_s.tolist() == [0.25, 0.5]
    assert run.requests.e2e_s.tolist() == [1.25, 1.5]
    found = figures(run)
    assert found["ttft_s"]["mean"] == 0.375  # from the lists, not the tool's own summary
    assert found["itl_s"]["mean"] == pytest.approx(2 / 3)


def test_bench_without_start_times_says_so(tmp_path: Path) -> None:
    data = {key: value for key, value in BENCH.items() if key != "start_times"}
    run = one(written(tmp_path / "bench.json", data))
    assert run.requests is not None
    assert run.requests.arrival_s is None
    assert figures(run)["requests_per_s"]["value"] == 0.5  # the tool's own
    assert any("start_times are absent" in note for note in run.notes)


def test_bench_without_details_gives_its_summary(tmp_path: Path) -> None:
    data = {"mean_ttft_ms": 12.0, "median_ttft_ms": 10.0, "p99_ttft_ms": 30.0, "duration": 2.0}
    run = one(written(tmp_path / "bench.json", data))
    assert run.requests is None
    assert figures(run)["ttft_s"] == {"mean": 0.012, "p50": 0.010, "p99": 0.030}


def test_bench_lists_of_unequal_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differ in length"):
        load(written(tmp_path / "bench.json", BENCH | {"ttfts": [0.1]}))


def test_appended_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH) + "\n" + json.dumps(BENCH) + "\n")
    with pytest.raises(InputError, match="several JSON results"):
        load(path)


# ---- AIPerf --------------------------------------------------------------------------------------


def record(start_ns: int, **given: Any) -> dict[str, Any]:
    metrics = {
        "time_to_first_token": {"value": 500.0, "unit": "ms"},
        "request_latency": {"value": 1.5, "unit": "s"},
        "input_sequence_length": {"value": 550, "unit": "tokens"},
        "output_sequence_length": {"value": 11, "unit": "tokens"},
        "inter_chunk_latency": {"value": [100.0] * 10, "unit": "ms"},
    }
    meta = {"request_start_ns": start_ns, "benchmark_phase": "profiling", "was_cancelled": False}
    return {"metadata": meta, "metrics": metrics, "error": None} | given


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_aiperf_records(tmp_path: Path) -> None:
    warm = record(1)
    warm["metadata"]["benchmark_phase"] = "warmup"
    failed = record(3_000_000_000, metrics=None, error={"code": 499})
    rows = [warm, record(2_000_000_000), failed, record(1_500_000_000)]
    run = one(lines(tmp_path / "profile_export.jsonl", rows))
    assert run.unfinished == 1
    assert run.requests is not None
    assert run.requests.arrival_s is not None
    np.testing.assert_allclose(run.requests.arrival_s, [0, 0.5])
    np.testing.assert_allclose(run.requests.tpot_s(), [0.1, 0.1])
    assert figures(run)["itl_s"]["n"] == 20
    assert any("1 requests of the warm-up" in note for note in run.notes)


def test_aiperf_units_are_read_and_not_guessed(tmp_path: Path) -> None:
    row = record(1)
    row["metrics"]["request_latency"]["unit"] = "fortnight"
    with pytest.raises(InputError, match='unit "fortnight"'):
        load(lines(tmp_path / "x.jsonl", [row]))


def test_aiperf_without_streaming_is_refused(tmp_path: Path) -> None:
    row = record(1)
    del row["metrics"]["time_to_first_token"]
    with pytest.raises(InputError, match="time_to_first_token") as caught:
        load(lines(tmp_path / "x.jsonl", [row]))
    assert "--streaming" in caught.value.help


def test_aiperf_csv(tmp_path: Path) -> None:
    path = tmp_path / "profile_export_aiperf.csv"
    path.write_text(
        "Metric,avg,min,max,p50,p90,p99,std\r\n"
        'Time to First Token (ms),"1,200.50",1,2,1000,2000,3000,1\r\n'
        "Inter Token Latency (ms),20.0,1,2,19,25,30,1\r\n"
        "\r\n"
        "Metric,Value\r\n"
        "Request Count,40.00\r\n"
        "Request Throughput (requests/sec),4.00\r\n"
        "\r\n"
        "Endpoint,GPU_Index,Metric,avg\r\n"
        "x,0,Power (W),1\r\n"
    )
    found = figures(one(path))
    expected = {"mean": 1.2005, "p50": 1.0, "p90": 2.0, "p99": 3.0, "n": 40}
    assert found["ttft_s"] == pytest.approx(expected)
    assert found["tpot_s"]["mean"] == 0.020
    assert found["requests_per_s"] == {"value": 4.0}


# ---- what is none of them ------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a,b\n1,2\n", '{"x": 1}\n', "[1, 2]\n", "hello\n"])
def test_an_unknown_file_gives_one_error_that_says_what_is_accepted(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "what"
    path.write_text(text)
    with pytest.raises(InputError, match="no run to compare with") as caught:
        load(path)
    assert "profile_export.jsonl" in caught.value.help
    assert "requests.jsonl" in caught.value.help


def test_an_empty_folder_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to compare with"):
        load(tmp_path)


def test_a_folder_with_one_log_is_that_log(vllm_log: Path) -> None:
    assert one(vllm_log.parent).name == vllm_log.name


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        load(tmp_path / "gone")
