"""What agents send: growing prompts that hit, and the habits that break them."""

from __future__ import annotations

from typing import Any

import pytest

from infersim.scenarios.workload.agent.spec import AgentSpec
from infersim.sim.state.content import Chains, Contents
from infersim.sim.state.streams import Streams

BASE: dict[str, Any] = {
    "kind": "agent",
    "sessions": 2,
    "concurrency": 1,
    "system_tokens": 1000,
    "tools_tokens": 2000,
    "tool_schemas": 4,
    "developer_tokens": 300,
    "environment": {"tokens": 100},
    "task_tokens": 50,
    "steps": 5,
    "reasoning_tokens": 40,
    "answer_tokens": 30,
    "final_tokens": 80,
    "tools": ({"latency_s": 2, "result_tokens": 200},),
    "window_tokens": 100_000,
}


def calls(host: Any, seed: int = 0, **keys: Any) -> list[Any]:
    spec = AgentSpec.model_validate({**BASE, **keys})
    return host(spec.build(Streams(seed), Contents())).run().calls


def hits(found: list[Any]) -> list[tuple[int, int]]:
    """(tokens in common with the longest earlier prompt and answer, prompt tokens)."""
    chains, past, out = Chains(), [], []
    for call in found:
        chain = chains.chain(call.prompt, model=call.model, salt=call.salt)
        best = max((chain.agrees(p, min(chain.tokens, p.tokens)) for p in past), default=0)
        out.append((best, chain.tokens))
        chain.append(call.output_content, 0, call.output_tokens)
        past.append(chain)
    return out


def test_prompts_only_grow_and_answers_hit(host: Any) -> None:
    found = calls(host)
    assert [c.turn for c in found] == [0, 1, 2, 3, 4] * 2
    first, second = found[0].prompt, found[1].prompt
    labels = ["system", "tools", "developer", "environment", "user"]
    assert [part.label for part in first] == labels
    assert [part.label for part in second] == [*labels, "assistant", "tool result"]
    assert second[5].content == found[0].output_content
    assert second[5].tokens == found[0].output_tokens == 70
    expected = [(0, 3450)] + [(3450 + 270 * k + 70, 3450 + 270 * (k + 1)) for k in range(4)]
    assert hits(found)[:5] == expected
    assert hits(found)[5] == (3300, 3450)  # another agent of the kind: its texts are shared
    assert {c.kind for c in found} == {"agent"}


def test_kinds_of_agent_share_nothing(host: Any) -> None:
    found = calls(host, sessions=40, agent_types={"count": 3, "zipf": 1.0}, steps=1)
    shares = {c.tenant: c.prompt[0].content for c in found}
    assert len(shares) == len(set(shares.values())) == 3


def test_stripped_reasoning_breaks_the_cache_at_the_answer(host: Any) -> None:
    found = calls(host, history="stripped")
    answer = found[1].prompt[5]
    assert (answer.content, answer.offset, answer.tokens) == (found[0].output_content, 40, 30)
    assert hits(found)[1] == (3450, 3680)


HABITS: list[tuple[dict[str, Any], list[int]]] = [
    # habit -> tokens in common with the past, calls 1 to 3
    ({"habits": {}}, [3520, 3790, 4060]),
    ({"habits": {"timestamp": "session"}}, [3536, 3806, 4076]),
    ({"habits": {"timestamp": "call"}}, [0, 0, 0]),
    ({"habits": {"timestamp": "call", "timestamp_at": 1.0}}, [1000, 1000, 1000]),
    ({"habits": {"tool_list_changes": 1.0}}, [3500, 4000, 4500]),
    ({"drift": 1.0}, [3450, 3700, 3900]),
    ({"habits": {"model_switched": {"share": 1.0, "to": "other"}}}, [3520, 3790, 4060]),
    ({"environment": {"tokens": 100, "changes": 1.0}}, [3600, 3950, 4300]),
    (
        {
            "environment": {"tokens": 100, "changes": 1.0},
            "habits": {"environment_edited_in_place": True},
        },
        [3300, 3300, 3300],
    ),
]


@pytest.mark.parametrize(("keys", "expected"), HABITS, ids=[str(h[0])[:60] for h in HABITS])
def test_what_habits_cost(host: Any, keys: dict[str, Any], expected: list[int]) -> None:
    found = hits(calls(host, sessions=1, **keys))[1:4]
    got = [hit for hit, _ in found]
    if "drift" in keys:
        assert all(low <= hit < low + 270 for low, hit in zip(expected, got, strict=True))
    else:
        assert got == expected


def test_reordered_tools_keep_only_what_stands_before_them(host: Any) -> None:
    found = calls(host, sessions=1, steps=30, tool_schemas=8, habits={"tools_reordered": 1.0})
    orders = {tuple(p.offset for p in c.prompt if p.label == "tools") for c in found}
    assert len(orders) > 20
    assert all(1000 <= hit <= 2000 for hit, _ in hits(found)[1:])


def test_switched_calls_share_nothing_with_the_others(host: Any) -> None:
    named = calls(host, steps=60, habits={"model_switched": {"share": 0.5, "to": "other"}})
    assert {c.model for c in named} == {"", "other"}
    apart = calls(host, steps=60, habits={"model_switched": {"share": 0.5}})
    assert {(c.model, c.salt) for c in apart} == {("", ""), ("", "another model")}
    assert [c.model for c in named] == ["other" if c.salt else "" for c in apart]


def test_habits_do_not_change_what_agents_do(host: Any) -> None:
    """Cells that differ by one habit serve the same agents: same answers, tools and steps."""
    variety = {
        "steps": {"kind": "lognormal", "median": 6, "sigma": 0.7},
        "answer_tokens": {"kind": "lognormal", "median": 60, "sigma": 1},
        "sessions": 10,
    }
    plain = calls(host, **variety)
    for keys, _ in HABITS:
        other = calls(host, **variety, **keys)
        assert [(c.session, c.turn, c.output_tokens) for c in other] == [
            (c.session, c.turn, c.output_tokens) for c in plain
        ]
