"""A tiny scenario, and hand-made logs of measured runs."""

import json
from pathlib import Path

import pytest

TINY = """\
name: tiny
seed: 3
cluster: {gpu: h100-sxm, model: llama-3.1-8b, kv_blocks: 2000}
workload: {kind: open-loop, requests: 40, arrivals: 20, system: {tokens: 500}}
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scenario, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def vllm_log(tmp_path: Path) -> Path:
    """Three requests; the engine's clock is 100 s behind epoch 1000, the second waits 50 ms."""
    rows = [
        (1000.0, 900.0, 900.5, 901.5, 100, 11),
        (1000.25, 900.30, 901.0, 903.0, 200, 21),
        (1000.5, 900.51, 902.0, 902.0, 300, 1),
    ]
    return jsonl(
        tmp_path / "small_requests.jsonl",
        [
            {
                "request_id": f"bench-{i}",
                "input_toks": prompt,
                "output_toks": output,
                "arrival_time": arrival,
                "queued_ts": queued,
                "scheduled_ts": queued,
                "first_token_ts": first,
                "last_token_ts": last,
            }
            for i, (arrival, queued, first, last, prompt, output) in enumerate(rows)
        ],
    )
