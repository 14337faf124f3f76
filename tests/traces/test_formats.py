"""Every format from a hand-made sample: what rows, sessions and notes come out."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import zstandard

from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.traces.formats import FORMATS
from infersim.scenarios.traces.load import load
from infersim.scenarios.traces.rows import Fork, Row
from infersim.scenarios.traces.source import Options
from infersim.scenarios.traces.stats import measure


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


MOONCAKE = [
    {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 1500, "input_length": 1025, "output_length": 6, "hash_ids": [0, 7, 8]},
]


def test_mooncake_and_block_sizes(tmp_path: Path) -> None:
    trace = load(jsonl(tmp_path / "t", *MOONCAKE))
    assert [row.at_s for row in trace.rows] == [0, 1.5]
    assert [row.runs for row in trace.rows] == [((0, 2),), ((0, 1), (7, 2))]
    found = measure(trace)
    assert found.token_hit_rate == 512 / 2025
    assert found.block_hit_rate == 1 / 5
    small = {"timestamp": 0, "input_length": 40, "output_length": 5, "hash_ids": [0, 1]}
    assert load(jsonl(tmp_path / "u", small), options=Options(block_size=16)).rows  # floor
    with pytest.raises(InputError, match="do not fit"):
        load(jsonl(tmp_path / "u", small))


def test_partial_blocks_hit_as_far_as_they_were_seen(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]},
        {"timestamp": 1, "input_length": 1100, "output_length": 1, "hash_ids": [0, 1, 2]},
        {"timestamp": 2, "input_length": 520, "output_length": 1, "hash_ids": [0, 1]},
    ]
    found = measure(load(jsonl(tmp_path / "t", *rows)))
    assert found.token_hit_rate == (600 + 520) / (600 + 1100 + 520)
    assert found.block_hit_rate == 4 / 7


def test_ids_that_are_not_chained_hit_by_prefix_only(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [5, 3]},
        {"timestamp": 1, "input_length": 1024, "output_length": 1, "hash_ids": [4, 3]},
        {"timestamp": 2, "input_length": 1536, "output_length": 1, "hash_ids": [5, 3, 4]},
    ]
    found = measure(load(jsonl(tmp_path / "t", *rows)))
    assert found.block_hit_rate == 2 / 7


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_compressed_files_open_directly(tmp_path: Path, suffix: str) -> None:
    data = jsonl(tmp_path / "plain", *MOONCAKE).read_bytes()
    if suffix == ".zst":  # two frames, as written by appending
        half = data.index(b"\n") + 1
        packed = b"".join(zstandard.compress(part) for part in (data[:half], data[half:]))
    else:
        packed = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix](data)
    (tmp_path / f"t.jsonl{suffix}").write_bytes(packed)
    assert len(load(tmp_path / f"t.jsonl{suffix}").rows) == 2


def test_lmcache_and_bailian_sessions(tmp_path: Path) -> None:
    row = {"input_length": 20, "output_length": 3, "type": "x", "hash_ids": [0, 1]}
    lmcache = load(
        jsonl(
            tmp_path / "l",
            {**row, "timestamp": 0.0, "session_id": 18},
            {**row, "timestamp": 2.0, "session_id": 5},
            {**row, "timestamp": 2.5, "session_id": 18, "turn": 2},
        )
    )
    assert lmcache.format == "lmcache"
    assert [(r.session, r.turn, r.gap_s) for r in lmcache.rows] == [
        (0, 0, None),
        (1, 0, None),
        (0, 1, 2.5),
    ]
    bailian = load(
        jsonl(
            tmp_path / "b",
            {**row, "timestamp": 1.0, "chat_id": 1, "parent_chat_id": -1, "turn": 1},
            {**row, "timestamp": 2.0, "chat_id": 2, "parent_chat_id": 99, "turn": 4},
            {**row, "timestamp": 3.0, "chat_id": 3, "parent_chat_id": 1, "turn": 2},
            {**row, "timestamp": 9.0, "chat_id": 4, "parent_chat_id": 3, "turn": 3},
        )
    )
    assert bailian.format == "bailian"
    assert [(r.session, r.turn) for r in bailian.rows] == [(0, 0), (1, 0), (0, 1), (0, 2)]
    assert "1 row: the parent chat is not in the trace" in bailian.notes[0]


def test_azure_dates_of_both_years(tmp_path: Path) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    (tmp_path / "a.csv").write_text(
        head + "2023-11-16 18:17:03.9799600,10,2\n2023-11-16 18:17:04,20,3\n"
    )
    assert [r.at_s for r in load(tmp_path / "a.csv").rows] == [0, pytest.approx(0.02004)]
    (tmp_path / "b.csv").write_text(
        head + "2024-05-10 23:59:59.5+00:00,10,2\n2024-05-11 02:00:00.5+02:00,20,3\n"
    )
    assert [r.at_s for r in load(tmp_path / "b.csv").rows] == [0, 1]


def test_burstgpt_failures_and_sessions(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\n"
        "5,a,1,ChatGPT,472,18,490,Conversation log\n"
        "7,,,GPT-4,100,0,100,API log\n"
        "8,b,0,ChatGPT,0,0,0,Conversation log\n"
        "45,a,2.5,ChatGPT,1087,230,1317,Conversation log\n"
    )
    trace = load(tmp_path / "b.csv")
    assert [(r.session, r.turn, r.gap_s, r.output_tokens) for r in trace.rows] == [
        (0, 0, None, 18),
        (-1, 0, None, 1),
        (0, 1, 40, 230),
    ]
    assert [note.split(":")[0] for note in trace.notes] == ["1 row", "1 row"]
    assert measure(trace).models == 2


def test_servegen_text_and_items(tmp_path: Path) -> None:
    text = load(jsonl(tmp_path / "t", {"timestamp": 0.5, "input_tokens": 279, "output_tokens": 60}))
    assert text.format == "servegen"
    row = {"text_tokens": 0, "image_tokens": [5, 6], "audio_tokens": [7], "output_tokens": 1}
    many = load(jsonl(tmp_path / "m", {"timestamp": 0, **row, "video_tokens": []}))
    assert (many.rows[0].items, many.rows[0].input_tokens) == ((5, 6, 7), 18)


def test_token_ids_share_exactly(tmp_path: Path) -> None:
    def row(at: int, *ids: int) -> dict[str, Any]:
        out = {"output_toks": 2, "output_tok_ids": [1, 2]}
        return {"input_toks": len(ids), "input_tok_ids": ids, "arrival_time_ns": at, **out}

    trace = load(jsonl(tmp_path / "t", row(0, 9, 8, 7), row(1000, 9, 8, 3, 7), row(2000, 9, 8, 3)))
    found = measure(trace)
    assert trace.rows[1].at_s == pytest.approx(1e-6)
    assert found.token_hit_rate == (2 + 3) / 10
    bare = {"input_toks": 3, "output_toks": 2, "arrival_time_ns": 0}
    assert measure(load(jsonl(tmp_path / "u", bare))).token_hit_rate is None


def test_vidur_lengths_with_and_without_times(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(
        "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n10,5,15,2\n"
    )
    assert not load(tmp_path / "v.csv").timed
    (tmp_path / "w.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,10,5\n")
    trace = load(tmp_path / "w.csv")
    assert trace.timed
    assert trace.rows[0].at_s == 1.5


def said(*words: tuple[str, str]) -> dict[str, Any]:
    return {"id": "c", "conversations": [{"from": w, "value": t} for w, t in words]}


def test_sharegpt_quotes_answers(tmp_path: Path) -> None:
    one = said(("system", "s" * 40), ("human", "a" * 80), ("gpt", "b" * 120), ("human", "c" * 9))
    two = said(("gpt", "lead"), ("human", "a" * 80), ("gpt", "b" * 8), ("human", "d"), ("gpt", "e"))
    three = said(("human", "only a question"))
    (tmp_path / "s.json").write_text(json.dumps([one, two, three], indent=1))
    trace = load(tmp_path / "s.json")
    assert [len(list(s.rows())) for s in trace.sessions] == [1, 2]
    first, *_ = trace.sessions[0].rows()
    assert (first.input_tokens, first.output_tokens) == (30, 30)
    _, third = trace.sessions[1].rows()
    assert (third.follows, third.fresh_tokens, third.input_tokens) == (True, 1, 23)
    assert len(trace.notes) == 3
    found = measure(trace)
    assert found.token_hit_rate == 22 / (30 + 20 + 23)
    half = load(tmp_path / "s.json", options=Options(characters_per_token=2.0))
    assert next(half.requests()).input_tokens == 60
    lines = load(jsonl(tmp_path / "s.jsonl", one, two, three))
    assert [row.runs for row in lines.requests()] == [row.runs for row in trace.requests()]


def claude(*requests: Any, **keys: Any) -> dict[str, Any]:
    head = {"id": "s1", "block_size": 64, "hash_id_scope": "local", "requests": list(requests)}
    return {**head, "tool_tokens": 100, "system_tokens": 50, **keys}


def ask(t: float, ids: int, **keys: Any) -> dict[str, Any]:
    row = {"t": t, "type": "n", "in": ids * 64 + 5, "out": 9, "model": "opus"}
    return {**row, "hash_ids": list(range(1, ids + 1)), **keys}


def sub(t: float, lasted_s: float, *requests: Any) -> dict[str, Any]:
    return {"t": t, "type": "subagent", "duration_ms": lasted_s * 1000, "requests": list(requests)}


def test_claude_sessions_fork_where_sub_agents_ran(tmp_path: Path) -> None:
    session = claude(
        ask(0, 4, api_time=3, think_time=0),
        sub(20, 16.5, ask(0, 2, api_time=1), ask(5, 3, api_time=1, think_time=4)),
        sub(30, 26.5, ask(0, 2, api_time=1)),
        ask(33, 5, api_time=2, think_time=30),
        ask(50, 6, think_time=15),
        ask(60, 7, think_time=25),
        ask(70, 8, api_time=1),
    )
    trace = load(jsonl(tmp_path / "c", session))
    first, fork, second, third, fourth, fifth = trace.sessions[0].steps
    assert isinstance(fork, Fork)
    assert [(b.delay_s, len(b.rows)) for b in fork.branches] == [(0.5, 2), (0.5, 1)]
    assert [r.think_s for r in fork.branches[0].rows] == [0, 4]
    rows = [row for row in (first, second, third, fourth, fifth) if isinstance(row, Row)]
    # after the fork: since the last result; no api_time before: paced by sending times
    assert [r.think_s for r in rows] == [0, 3, 15, None, None]
    assert [r.gap_s for r in rows] == [None, None, None, 10, 10]
    assert [r.turn for r in rows] == [0, 1, 2, 3, 4]
    assert rows[0].head == (("tools", 100), ("system", 50))
    assert {r.kind for r in trace.requests()} == {"agent", "subagent"}
    other = claude(ask(0, 4), id="s2")
    two = load(jsonl(tmp_path / "d", session, other))
    assert measure(two).sessions == 2
    assert [row.scope for row in two.requests()][-1] == "s2"
    glob = load(jsonl(tmp_path / "e", claude(ask(0, 4), hash_id_scope="global")))
    assert next(glob.requests()).scope == ""


def test_zero_output_is_kept_dropped_or_refused(tmp_path: Path) -> None:
    row = {**MOONCAKE[0], "output_length": 0}
    path = jsonl(tmp_path / "t", row, MOONCAKE[1])
    assert [r.output_tokens for r in load(path).rows] == [1, 6]
    dropped = load(path, options=Options(zero_output="drop"))
    assert [r.number for r in dropped.rows] == [0]
    assert dropped.notes == ("1 row: no answer tokens; dropped (zero_output: drop)",)
    with pytest.raises(InputError, match="zero_output is refuse") as error:
        load(path, options=Options(zero_output="refuse"))
    assert error.value.where == f"{path}:1"


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", *MOONCAKE)
    path.write_text(path.read_text() + "broken")
    assert len(load(path, options=Options(limit=1)).rows) == 1
    with pytest.raises(InputError, match="limit must be at least 1"):
        load(path, options=Options(limit=0))


def test_unknown_columns_are_refused_or_noted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", {**MOONCAKE[0], "hash_idz": 1})
    with pytest.raises(UnknownNameError, match='did you mean "hash_ids"'):
        load(path)
    notes = load(path, options=Options(allow_unknown=True)).notes
    assert 'the unknown column "hash_idz" is ignored' in notes[0]


def test_a_format_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t", *MOONCAKE)
    assert load(path, format="mooncake").format == "mooncake"
    with pytest.raises(InputError, match="no column"):
        load(path, format="bailian")
    with pytest.raises(UnknownNameError, match='did you mean "mooncake"'):
        load(path, format="mooncak")
    assert len(FORMATS) == 11
