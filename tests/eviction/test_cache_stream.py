"""From trace files to look-ups: identities, times, and what has no block ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.policies.types import PS_PER_S
from infersim.scenarios.cache.grid import replay_trace
from infersim.scenarios.cache.stream import Stream, stream_of
from infersim.scenarios.traces.load import load


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mooncake(at_ms: int, ids: list[int]) -> dict[str, Any]:
    tokens = 512 * len(ids) - 100  # the last block is partial
    return {"timestamp": at_ms, "input_length": tokens, "output_length": 7, "hash_ids": ids}


def turn(t: float, ids: list[int], model: str = "m") -> dict[str, Any]:
    tokens = 64 * len(ids) + 10
    return {
        "t": t,
        "type": "n",
        "model": model,
        "in": tokens,
        "out": 5,
        "hash_ids": ids,
        "api_time": 1.0,
    }


def agent(name: str, *requests: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "block_size": 64,
        "hash_id_scope": "local",
        "tool_tokens": 0,
        "system_tokens": 0,
        "requests": list(requests),
    }


def blocks(stream: Stream) -> list[list[int]]:
    return [list(row) for _, row in stream.lookups]


def test_open_loop_rows_keep_their_ids_and_times(tmp_path: Path) -> None:
    trace = load(written(tmp_path, mooncake(0, [4, 5, 9]), mooncake(1500, [4, 5, 6, 7])))
    stream = stream_of(trace)
    assert blocks(stream) == [[4, 5, 9], [4, 5, 6, 7]]
    assert [len(row) for _, row in stream.lookups] == [3, 4]
    assert stream.references == 7
    assert [r.arrival_ps for r, _ in stream.lookups] == [0, 3 * PS_PER_S // 2]
    assert [r.id for r, _ in stream.lookups] == [0, 1]
    assert [r.tool_time_s for r, _ in stream.lookups] == [-1.0, -1.0]


def test_scopes_and_models_share_no_block(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        agent("a", turn(0, [1, 2]), turn(5, [1, 2, 3]), turn(9, [1, 2], model="other")),
        agent("b", turn(0, [1, 2])),
    )
    first, second, other, elsewhere = blocks(stream_of(load(path)))
    assert second[:2] == first
    assert not set(other) & {*second, *elsewhere}
    assert not set(elsewhere) & set(second)


def test_sessions_follow_one_another_and_know_when_they_come_back(tmp_path: Path) -> None:
    branch = {"t": 8.0, "type": "subagent", "requests": [turn(0, [7]), turn(2, [7, 8])]}
    path = written(
        tmp_path,
        agent("a", turn(0, [1]), turn(4, [1, 2]), branch, turn(20, [1, 2, 3])),
        agent("b", turn(0, [1]), turn(3, [1])),
    )
    requests = [r for r, _ in stream_of(load(path)).lookups]
    seconds = [r.arrival_ps / PS_PER_S for r in requests]
    assert seconds == sorted(seconds)
    assert [seconds[0], seconds[1], seconds[4], seconds[5], seconds[6]] == [0, 4, 20, 20, 23]
    assert seconds[3] - seconds[2] == 2
    assert [r.tool_time_s for r in requests] == [4, 16, 2, -1, -1, 3, -1]


def test_a_trace_without_block_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
    )
    with pytest.raises(InputError, match="no block ids") as error:
        replay_trace(path, "lru", "10")
    assert str(path) in error.value.where


def test_a_row_without_block_ids_is_refused_with_its_line(tmp_path: Path) -> None:
    row = {"input_toks": 2, "output_toks": 1, "arrival_time_ns": 0}
    path = written(tmp_path, row | {"input_tok_ids": [5, 6]}, row | {"arrival_time_ns": 1})
    with pytest.raises(InputError, match="without block ids") as error:
        stream_of(load(path))
    assert error.value.where.endswith(":2")


def test_names_are_checked_before_the_trace_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lruu"):
        replay_trace(tmp_path / "absent.jsonl", "lruu", "10")
    with pytest.raises(InputError, match="capacity"):
        replay_trace(tmp_path / "absent.jsonl", "lru", "some")


def test_a_grid_has_a_row_for_every_policy_and_capacity(tmp_path: Path) -> None:
    path = written(tmp_path, *(mooncake(n, [1, 2, 10 + n]) for n in range(5)))
    rows = list(replay_trace(path, "lru,lfu:counting=global,belady", "2,3,inf"))
    assert [(row.eviction, row.capacity) for row in rows] == [
        (name, size)
        for name in ("lru", "lfu:counting=global", "belady")
        for size in (2, 3, float("inf"))
    ]
    assert {row.references for row in rows} == {15}
    assert [row.hits for row in rows if row.eviction == "belady"] == [8, 8, 8]
    assert rows[0].hits == 0


def test_a_block_size_of_the_trace_can_be_said(tmp_path: Path) -> None:
    row = {"timestamp": 0, "input_length": 20, "output_length": 1, "hash_ids": [0, 1]}
    path = written(tmp_path, row, row)
    (found,) = replay_trace(path, "lru", "inf", format="mooncake", block_size=16)
    assert found.hits == 2


def test_what_the_figures_cannot_say_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    replay_trace(
        written(tmp_path, agent("a", turn(0, [1]))), "session-ttl,lru", "5", say=said.append
    )
    assert [line.split(":")[0] for line in said] == [
        "the trace does not say when its sessions start",
        "no session of this trace comes back, so session-ttl decides as lru",
    ]
    said.clear()
    replay_trace(written(tmp_path, mooncake(0, [1])), "lru", "5", say=said.append)
    assert said == []
