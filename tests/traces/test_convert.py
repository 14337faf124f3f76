"""Conversion: what round-trips, what is lost and said, what is refused and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.traces.convert import convert
from infersim.scenarios.traces.load import load
from infersim.scenarios.traces.source import Options

TRACES = Path(__file__).parents[2].parent / "shared" / "traces"

BAILIAN = [
    {"chat_id": 0, "parent_chat_id": -1, "timestamp": 0.5, "turn": 1, "hash_ids": [3, 4]},
    {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.75, "turn": 1, "hash_ids": [5, 9]},
    {"chat_id": 2, "parent_chat_id": 0, "timestamp": 2.25, "turn": 2, "hash_ids": [3, 4]},
]


def sample(path: Path) -> Path:
    same: dict[str, Any] = {"input_length": 30, "output_length": 3, "type": "chat"}
    path.write_text("".join(json.dumps({**same, **row}) + "\n" for row in BAILIAN))
    return path


def body(path: Path) -> list[Any]:
    return [(r.at_s, r.input_tokens, r.output_tokens, r.runs) for r in load(path).rows]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_bailian_round_trips(tmp_path: Path, suffix: str) -> None:
    source, out = sample(tmp_path / "in"), tmp_path / f"out.jsonl{suffix}"
    assert convert(source, out, "bailian") == []
    assert load(out).rows == load(source).rows
    first = out.read_bytes()
    convert(source, out, "bailian")
    assert out.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", out.name]


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    source = sample(tmp_path / "in")
    lost = convert(source, tmp_path / "m", "mooncake")
    assert lost == [
        "sessions and pauses are left out",
        "blocks are of 16 tokens: read it with that block size",
    ]
    rows = [json.loads(line) for line in (tmp_path / "m").read_text().splitlines()]
    assert [row["timestamp"] for row in rows] == [500, 750, 2250]
    lost = convert(source, tmp_path / "a.csv", "azure")
    assert "block ids are left out: what prompts share is lost" in lost
    assert [r.at_s for r in load(tmp_path / "a.csv").rows] == [0, 0.25, 1.75]
    assert "arrival times are left out" in convert(source, tmp_path / "v.csv", "vidur")
    assert [r.input_tokens for r in load(tmp_path / "v.csv").rows] == [30, 30, 30]


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    lengths = tmp_path / "v.csv"
    lengths.write_text("num_prefill_tokens,num_decode_tokens\n10,5\n")
    session = {"t": 0, "type": "n", "in": 64, "out": 3, "hash_ids": [1]}
    agents = tmp_path / "c"
    agents.write_text(json.dumps({"id": "a", "block_size": 64, "requests": [session]}))
    moon = tmp_path / "m"
    moon.write_text(
        json.dumps({"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [0]})
    )
    for source, to, said in (
        (lengths, "mooncake", "vidur cannot be written as mooncake: it has no arrival times; it"),
        (lengths, "azure", "no arrival times"),
        (agents, "mooncake", "its requests wait for answers"),
        (agents, "azure", "no arrival times"),
        (moon, "bailian", "its blocks are of 512 tokens, bailian's of 16"),
    ):
        with pytest.raises(InputError, match=said):
            convert(source, tmp_path / "out", to)
        assert not (tmp_path / "out").exists()
    assert convert(agents, tmp_path / "out", "vidur")
    with pytest.raises(UnknownNameError, match='did you mean "mooncake"'):
        convert(moon, tmp_path / "out", "moncake")


def test_nothing_is_half_written(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    broken = sample(tmp_path / "in")
    broken.write_text(broken.read_text() + "{")
    with pytest.raises(InputError):
        convert(broken, out, "bailian")
    assert out.read_text() == "before"
    with pytest.raises(InputError, match="cannot write"):
        convert(sample(tmp_path / "in"), tmp_path / "absent" / "out", "bailian")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        convert(sample(tmp_path / "in"), tmp_path / "folder", "bailian")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in", "out.jsonl"]


@pytest.mark.skipif(not TRACES.exists(), reason="shared/traces is not here")
def test_public_traces_round_trip(tmp_path: Path) -> None:
    azure, agents = TRACES / "azure2023_code.csv.gz", TRACES / "lmcache_agent_miniswe.jsonl.gz"
    assert convert(azure, tmp_path / "a", "azure") == []
    assert body(tmp_path / "a") == body(azure)
    convert(agents, tmp_path / "b", "bailian")
    assert load(tmp_path / "b").rows == load(agents).rows
    convert(agents, tmp_path / "m", "mooncake")
    again = load(tmp_path / "m", options=Options(block_size=16))
    assert [row.runs for row in again.rows] == [row.runs for row in load(agents).rows]
