"""The public traces, where they are at hand: known figures, and formats told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from infersim.scenarios.traces.load import load
from infersim.scenarios.traces.source import Options
from infersim.scenarios.traces.stats import TraceStats, measure, stats

TRACES = Path(__file__).parents[2].parent / "shared" / "traces"
pytestmark = pytest.mark.skipif(not TRACES.exists(), reason="shared/traces is not here")

FILES = [
    ("azure2023_code.csv.gz", "azure", 8819),
    ("llmservingsim_sharegpt_llama31_300.jsonl.gz", "llmservingsim", 300),
    ("lmcache_agent_miniswe.jsonl.gz", "lmcache", 402),
    ("lmcache_agent_taubench.jsonl.gz", "lmcache", 471),
    ("mooncake_conversation_trace.jsonl.gz", "mooncake", 12031),
    ("servegen_m-mid_1h.jsonl.gz", "servegen", 12150),
    ("servegen_mm-image_1h.jsonl.gz", "servegen-multimodal", 5904),
    ("vidur_arxiv_summarization_lengths.csv.gz", "vidur", 28257),
]


@pytest.fixture(scope="module")
def measured() -> dict[str, TraceStats]:
    return {file: stats(TRACES / file) for file, _, _ in FILES}


@pytest.mark.parametrize(("file", "format", "requests"), FILES)
def test_every_trace_is_recognised_and_whole(
    measured: dict[str, TraceStats], file: str, format: str, requests: int
) -> None:
    found = measured[file]
    assert (found.format, found.requests) == (format, requests)
    assert found.input_tokens.total > 0


def test_mooncake(measured: dict[str, TraceStats]) -> None:
    found = measured["mooncake_conversation_trace.jsonl.gz"]
    assert found.token_hit_rate == pytest.approx(0.3736, abs=5e-5)
    assert found.block_hit_rate == pytest.approx(0.366, abs=5e-4)
    assert (found.blocks, found.block_size) == (288_500, 512)
    assert found.rate_rps == pytest.approx(3.40, abs=0.005)
    lengths = found.input_tokens, found.output_tokens
    assert [round(x.mean) for x in lengths] == [12_035, 343]
    assert [round(x.p50) for x in lengths] == [6_909, 350]
    assert [round(x.p99) for x in lengths] == [85_400, 1_119]


def test_agent_traces(measured: dict[str, TraceStats]) -> None:
    swe, tau = (measured[f"lmcache_agent_{name}.jsonl.gz"] for name in ("miniswe", "taubench"))
    assert swe.block_hit_rate == pytest.approx(0.933, abs=5e-4)
    assert tau.block_hit_rate == pytest.approx(0.837, abs=5e-4)
    assert (swe.sessions, tau.sessions) == (20, 24)
    assert swe.session_token_hit_rate == pytest.approx(0.9333, abs=5e-5)
    assert tau.notes == ("283 rows: no answer tokens; kept with 1 (zero_output: keep)",)


def test_azure_and_images(measured: dict[str, TraceStats]) -> None:
    azure = measured["azure2023_code.csv.gz"]
    assert azure.gap_cv == pytest.approx(13, abs=0.5)
    assert azure.token_hit_rate is None
    image = load(TRACES / "servegen_mm-image_1h.jsonl.gz").rows[0]
    assert (image.items, image.input_tokens) == ((252,), 75 + 252)


def test_sessions_know_their_pauses_and_sub_agents() -> None:
    trace = load(TRACES / "claude_code_sessions.jsonl.xz", options=Options(limit=20))
    assert len(trace.sessions) == 20
    assert trace.block_size == 64
    found = measure(trace)
    assert found.token_hit_rate == found.session_token_hit_rate
    assert found.token_hit_rate is not None
    assert 0.9 < found.token_hit_rate < 0.99
    assert found.subagent_requests > 0
    for row in trace.requests():
        assert (row.think_s is None) != (row.gap_s is None)


@pytest.mark.slow
def test_all_sessions() -> None:
    found = stats(TRACES / "claude_code_sessions.jsonl.xz")
    assert (found.sessions, found.requests, found.blocks) == (496, 31_833, 60_666_253)
    assert found.session_token_hit_rate == pytest.approx(0.963, abs=5e-4)
    assert found.token_hit_rate == pytest.approx(0.963, abs=5e-4)
    assert found.subagent_requests == 463
