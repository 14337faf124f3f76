"""Whatever is done to a measured file, loading it works or says one thing that is wrong."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infersim.calibrate.compare.figures import figures
from infersim.calibrate.compare.formats import load
from infersim.policies.errors import InputError

ODD = [None, True, -1, 0, 1e400, "x", [], {}, [None], {"value": None}, 10**30, -0.5, "9" * 50]
AIPERF = {
    "metadata": {"request_start_ns": 5, "benchmark_phase": "profiling"},
    "metrics": {
        "time_to_first_token": {"value": 5.0, "unit": "ms"},
        "request_latency": {"value": 9.0, "unit": "ms"},
        "input_sequence_length": {"value": 10, "unit": "tokens"},
        "output_sequence_length": {"value": 3, "unit": "tokens"},
        "inter_chunk_latency": {"value": [2.0, 2.0], "unit": "ms"},
    },
    "error": None,
}
VLLM = {
    "request_id": "a",
    "input_toks": 10,
    "output_toks": 5,
    "arrival_time": 1000.0,
    "queued_ts": 1.0,
    "scheduled_ts": 1.0,
    "first_token_ts": 1.5,
    "last_token_ts": 2.0,
}
BENCH = {
    "ttfts": [0.5, 0.25],
    "itls": [[0.5], [0.25]],
    "input_lens": [3, 4],
    "output_lens": [2, 2],
    "start_times": [1.0, 2.0],
    "errors": ["", ""],
    "mean_ttft_ms": 3.0,
    "request_throughput": 1.0,
    "duration": 2.0,
}
META = {
    "engine_kwargs": {"tensor_parallel_size": 1, "data_parallel_size": 1},
    "kv_cache": {"num_gpu_blocks": 10, "block_size": 16},
    "resolved_config": {"scheduler_config": {"async_scheduling": True}, "parallel_config": {}},
}


def damaged(data: Any, rng: random.Random) -> Any:
    """A copy of *data* in which one value, somewhere, is something else or gone."""
    if isinstance(data, dict) and data and rng.random() < 0.8:
        key = rng.choice(sorted(data))
        rest = {name: value for name, value in data.items() if name != key}
        return rest if rng.random() < 0.2 else rest | {key: damaged(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.7:
        at = rng.randrange(len(data))
        return [*data[:at], damaged(data[at], rng), *data[at + 1 :]]
    return rng.choice(ODD)


def lines(path: Path, good: dict[str, Any], bad: Any) -> None:
    path.write_text("\n".join(map(json.dumps, (good, bad, good))) + "\n")


def whole(path: Path, good: dict[str, Any], bad: Any) -> None:
    path.write_text(json.dumps(bad))


def beside(path: Path, good: dict[str, Any], bad: Any) -> None:
    lines(path, VLLM, VLLM)
    path.with_name(path.name.replace("requests.jsonl", "meta.json")).write_text(json.dumps(bad))


CASES: list[tuple[str, dict[str, Any], Callable[[Path, dict[str, Any], Any], None]]] = [
    ("requests.jsonl", VLLM, lines),
    ("profile_export.jsonl", AIPERF, lines),
    ("bench.json", BENCH, whole),
    ("requests.jsonl", META, beside),
]


@pytest.mark.parametrize(("name", "good", "write"), CASES, ids=["vllm", "aiperf", "bench", "meta"])
def test_damage_is_an_input_error_or_harmless(
    tmp_path: Path, name: str, good: dict[str, Any], write: Callable[..., None]
) -> None:
    rng = random.Random(11)
    refused = 0
    for _ in range(150):
        bad = damaged(good, rng)
        write(tmp_path / name, good, bad)
        try:
            (run,) = load(tmp_path / name)
        except InputError:
            refused += 1
            continue
        assert type(run.kv_blocks) in (int, type(None))
        for stats in figures(run).values():
            assert np.isfinite(list(stats.values())).all(), bad
    assert refused


def test_a_csv_cut_anywhere(tmp_path: Path) -> None:
    text = (
        'Metric,avg,p50,p90,p99\nTime to First Token (ms),"1,200.50",1,2,3\n\n'
        "Metric,Value\nRequest Count,40.00\nRequest Throughput (requests/sec),4.00\n"
    )
    path = tmp_path / "aiperf.csv"
    for end in range(1, len(text)):
        path.write_text(text[:end])
        try:
            (run,) = load(path)
        except InputError:
            continue
        assert "ttft_s" in run.given
