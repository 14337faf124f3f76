"""Traces as workloads: open and closed loop, pauses, sub-agents, fallbacks, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from infersim.policies.errors import InputError
from infersim.scenarios.traces.load import load
from infersim.scenarios.traces.source import Options
from infersim.scenarios.traces.stats import measure, stats
from infersim.scenarios.workload.spec import WorkloadSpec
from infersim.sim.state.content import Chains, Contents
from infersim.sim.state.streams import Streams

ADAPTER: TypeAdapter[Any] = TypeAdapter(WorkloadSpec)
TRACES = Path(__file__).parents[2].parent / "shared" / "traces"


def spec(file: Path | str, **keys: Any) -> Any:
    value = {"kind": "trace", "file": str(file), **keys}
    return ADAPTER.validate_json(json.dumps(value), strict=True)


def built(file: Path | str, **keys: Any) -> Any:
    return spec(file, **keys).build(Streams(0), Contents(), (Path(),), 100_000)


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def moon(path: Path) -> Path:
    ids = ([0, 1], [0, 2], [3])
    times = (5000, 6000, 9000)
    rows = [
        {"timestamp": t, "input_length": 512 * len(i), "output_length": 7, "hash_ids": i}
        for t, i in zip(times, ids, strict=True)
    ]
    return jsonl(path, *rows)


def ideal(calls: list[Any]) -> float:
    """Token-weighted hit rate of an infinite cache, in the order of the calls."""
    chains, past, hit, total = Chains(), {}, 0, 0
    for call in calls:
        chain = chains.chain(call.prompt, model=call.model, salt=call.salt)
        for link, end in zip(chain.links, [*chain.starts[1:], chain.tokens], strict=True):
            reach = min(past.get(link, 0), end)
            hit += max(0, reach - chain.starts[chain.links.index(link)])
            if reach < end:
                break
        total += chain.tokens
        for link, end in zip(chain.links, [*chain.starts[1:], chain.tokens], strict=True):
            past[link] = max(past.get(link, 0), end)
    return hit / total


def test_open_loop_replays_times_and_prefixes(tmp_path: Path) -> None:
    workload = built(moon(tmp_path / "m"), time_scale=2)
    assert (workload.closed_loop, workload.expected_requests) == (False, 3)
    arrivals = list(workload.arrivals())
    assert [a.at_ps for a in arrivals] == [0, 2 * 10**12, 8 * 10**12]
    first, second, third = (a.what for a in arrivals)
    assert first.prompt[0][:3] == (second.prompt[0].content, 0, 1024)
    assert [part[1:3] for part in second.prompt] == [(0, 512), (1024, 512)]
    assert third.prompt[0].offset == 3 * 512
    assert len({c.output_content for c in (first, second, third)}) == 3
    assert ideal([first, second, third]) == 512 / (5 * 512)
    assert len(list(built(tmp_path / "m", requests=2).arrivals())) == 2
    assert len(list(built(tmp_path / "m", duration_s=1.5).arrivals())) == 2
    replaced = list(built(tmp_path / "m", arrivals={"kind": "constant", "rate_rps": 2}).arrivals())
    assert [a.at_ps for a in replaced] == [0, 5 * 10**11, 10**12]


def test_lengths_need_arrivals(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("num_prefill_tokens,num_decode_tokens\n10,5\n20,6\n")
    with pytest.raises(InputError, match="do not say when things start") as error:
        built(path)
    assert error.value.where == "workload.arrivals"
    workload = built(path, arrivals={"kind": "all-at-once"})
    assert [a.what.output_tokens for a in workload.arrivals()] == [5, 6]


def linked(path: Path) -> Path:
    row = {"input_length": 20, "output_length": 3, "type": "x", "hash_ids": [0, 1]}
    times = ((0.0, 1), (1.0, 2), (2.0, 1), (12.0, 1))
    return jsonl(path, *({**row, "timestamp": t, "session_id": s} for t, s in times))


def test_closed_loop_waits_for_time_and_answer(host: Any, tmp_path: Path) -> None:
    path = linked(tmp_path / "l")
    plain = built(path)
    assert not plain.closed_loop
    assert [a.at_ps // 10**12 for a in plain.arrivals()] == [0, 1, 2, 12]
    ran = host(built(path, loop="closed"), call_s=5).run()
    assert ran.workload.closed_loop
    assert ran.call_times == [0, 1, 5, 15]
    assert [(c.session, c.turn) for c in ran.calls] == [(0, 0), (1, 0), (0, 1), (0, 2)]
    with pytest.raises(InputError, match="which requests belong together"):
        built(moon(tmp_path / "m"), loop="closed")


def claude(path: Path) -> Path:
    def ask(t: float, ids: list[int], model: str = "opus", **keys: Any) -> dict[str, Any]:
        row = {"t": t, "type": "n", "in": len(ids) * 64 + 5, "out": 9, "model": model}
        return {**row, "hash_ids": ids, "api_time": 1, **keys}

    inner = [ask(0, [1, 9], "haiku"), ask(4, [1, 9, 10], "haiku", think_time=3)]
    one = [
        ask(0, [1, 2], think_time=0),
        {"t": 11, "type": "subagent", "duration_ms": 9500, "requests": inner},
        {"t": 21, "type": "subagent", "duration_ms": 19500, "requests": inner[:1]},
        ask(25, [1, 2, 3], think_time=24),
        ask(30, [1, 2, 3, 4], think_time=4),
    ]
    head = {"block_size": 64, "tool_tokens": 50, "system_tokens": 14}
    two = [ask(0, [1, 2])]
    return jsonl(path, {"id": "a", **head, "requests": one}, {"id": "b", **head, "requests": two})


def test_agents_of_a_trace_fork_and_join(host: Any, tmp_path: Path) -> None:
    path = claude(tmp_path / "c")
    with pytest.raises(InputError, match="or concurrency"):
        built(path)
    ran = host(built(path, concurrency=1)).run()
    kinds = [c.kind for c in ran.calls]
    assert kinds == ["agent", "subagent", "subagent", "subagent", "agent", "agent", "agent"]
    # answers 1 s, sub-agents 0.5 s later, 3 s of thinking inside, 4 s after the last of them
    assert ran.call_times == [0, 1.5, 1.5, 5.5, 10.5, 15.5, 16.5]
    assert len({c.session for c in ran.calls}) == 4
    assert [c.salt for c in ran.calls] == ["opus", "haiku", "haiku", "haiku"] + ["opus"] * 3
    labels = [(p.label, p.tokens) for p in ran.calls[0].prompt]
    assert labels == [("tools", 50), ("system", 14), ("conversation", 64), ("conversation", 5)]
    a, b = ran.calls[0].prompt, ran.calls[-1].prompt
    assert a[0].content != b[0].content  # ids are local to a session
    quick = host(built(path, concurrency=1, think_scale=0.0)).run()
    assert quick.call_times == [0, 1, 1, 2, 3, 4, 5]
    for models, expected in (("together", {("", "")}), ("named", {("opus", ""), ("haiku", "")})):
        calls = host(built(path, concurrency=1, models=models)).run().calls
        assert {(c.model, c.salt) for c in calls} == expected


def test_a_failed_call_does_not_end_the_record(host: Any, tmp_path: Path) -> None:
    ran = host(built(claude(tmp_path / "c"), concurrency=2), fail=lambda call: True).run()
    assert len(ran.calls) == 7


def test_conversations_quote_what_was_answered(host: Any, tmp_path: Path) -> None:
    said = [("human", "a" * 80), ("gpt", "b" * 120), ("human", "c" * 40), ("gpt", "d" * 8)]
    item = {"id": "x", "conversations": [{"from": w, "value": t} for w, t in said]}
    path = jsonl(tmp_path / "s.jsonl", item, item)
    keys = {"arrivals": {"kind": "constant", "rate_rps": 0.1}, "think_s": 3}
    ran = host(built(path, **keys)).run()
    assert ran.call_times == [0, 4, 10, 14]
    first, second, third, fourth = ran.calls
    assert [p[1:] for p in second.prompt] == [
        (0, 20, "conversation"),
        (0, 30, "assistant"),
        (20, 10, "conversation"),
    ]
    assert second.prompt[1].content == first.output_content
    assert third.prompt == first.prompt  # equal openings are equal text
    assert fourth.prompt[1].content == third.output_content != first.output_content
    assert {c.tool_time_s for c in ran.calls} == {-1.0}
    told = host(built(path, **keys, tool_time_s=3)).run()
    assert {c.tool_time_s for c in told.calls} == {3.0}


def test_images_are_items(tmp_path: Path) -> None:
    row = {"timestamp": 0, "text_tokens": 7, "image_tokens": [5, 6], "output_tokens": 1}
    (arrival,) = built(jsonl(tmp_path / "m", row)).arrivals()
    call = arrival.what
    assert [(p.tokens, p.label) for p in call.prompt] == [(5, "media"), (6, "media"), (7, "prompt")]
    assert [(i.offset, i.tokens) for i in call.items] == [(0, 5), (5, 6)]


def test_notes_and_fallback(host: Any, tmp_path: Path) -> None:
    row = {"timestamp": 0, "input_length": 9, "output_length": 0, "hash_ids": [0]}
    kept = built(jsonl(tmp_path / "z", row))
    assert kept.notes == ["trace z: 1 row: no answer tokens; kept with 1 (zero_output: keep)"]
    fallback = {"kind": "open-loop", "arrivals": 1, "requests": 4}
    absent = built("absent.gz", fallback=fallback, source="https://example.org/t")
    assert len(list(absent.arrivals())) == 4
    assert absent.notes == [
        "trace absent.gz is absent: a generated open-loop workload in its place "
        "(get it from https://example.org/t)"
    ]
    with pytest.raises(InputError, match=r"no file absent\.gz") as error:
        built("absent.gz", source="https://example.org/t")
    assert "get it from https://example.org/t" in error.value.help


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sessions": 2}, "single requests: limit requests"),
        ({"concurrency": 2}, "concurrency is for sessions"),
        ({"format": "azure"}, "no column ContextTokens"),
        ({"block_size": 100}, "do not fit a prompt"),
        ({"time_scale": 1e8}, "beyond the simulator's clock"),
        ({"time_scale": 2, "arrivals": 1}, "arrivals replace the recorded times"),
        ({"think_scale": 2}, "do not wait for answers"),
        ({"think_s": 2}, "do not wait for answers"),
        ({"characters_per_token": 3}, "is for sharegpt"),
    ],
)
def test_what_does_not_fit_the_trace(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        built(moon(tmp_path / "m"), **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"format": "moon"}, "unknown trace format"),
        ({"requests": 1, "sessions": 1}, "exclude each other"),
        ({"arrivals": 1, "concurrency": 1}, "exclude each other"),
        ({"fallback": {"kind": "trace", "file": "x"}}, "open-loop"),
    ],
)
def test_what_is_wrong_in_the_scenario(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec("x", **keys)


def test_sessions_are_not_limited_by_requests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit sessions, not requests"):
        built(claude(tmp_path / "c"), requests=1, concurrency=1)


def test_sessions_have_no_times_to_scale(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the trace has no arrival times"):
        built(claude(tmp_path / "c"), concurrency=1, time_scale=2)


def test_a_block_size_that_the_trace_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    )
    with pytest.raises(InputError, match="azure has no block ids, and block_size says 16"):
        built(tmp_path / "a.csv", block_size=16)


@pytest.mark.skipif(not TRACES.exists(), reason="shared/traces is not here")
def test_simulated_prompts_share_what_the_statistics_say(host: Any) -> None:
    file = TRACES / "lmcache_agent_miniswe.jsonl.gz"
    calls = [a.what for a in built(file).arrivals()]
    assert ideal(calls) == pytest.approx(stats(file).token_hit_rate, abs=1e-12)
    sessions = TRACES / "claude_code_sessions.jsonl.xz"
    expected = measure(load(sessions, options=Options(limit=12))).token_hit_rate
    agents = host(built(sessions, sessions=12, concurrency=4)).run()
    assert ideal(agents.calls) == pytest.approx(expected, abs=1e-12)
