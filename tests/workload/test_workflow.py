"""Workflows: who is called when, what is sent, and what the frontend says of the future."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from infersim.scenarios.workload.distributions import fixed
from infersim.scenarios.workload.workflow import WorkflowSpec, WorkflowTypes
from infersim.sim.state.content import Contents
from infersim.sim.state.streams import Streams


def spec(**keys: Any) -> WorkflowSpec:
    base: dict[str, Any] = {
        "kind": "workflow",
        "sessions": 1,
        "concurrency": 1,
        "agents": 3,
        "rounds": fixed(2),
        "fixed_tokens": fixed(100),
        "task_tokens": fixed(20),
        "output_tokens": fixed(7),
    }
    return WorkflowSpec.model_validate({**base, **keys})


def run(host: Any, workload_spec: WorkflowSpec, context: int | None = None, **keys: Any) -> Any:
    workload = workload_spec.build(Streams(0), Contents(), context_tokens=context)
    return host(workload, **keys).run()


def sizes(call: Any) -> list[tuple[str, int]]:
    return [(part.label, part.tokens) for part in call.prompt]


def test_agents_are_called_in_order_and_read_the_last_answers(host: Any) -> None:
    ran = run(host, spec(order=(0, (1, 2), 1), shared_tokens=fixed(30), pause_s=fixed(4)))
    assert [c.kind for c in ran.calls] == [f"agent-{n}" for n in (0, 1, 2, 1)] * 2
    assert ran.call_times == [0, 5, 5, 10, 15, 20, 20, 25]
    assert [c.turn for c in ran.calls] == list(range(8))
    assert {(c.session, c.tenant) for c in ran.calls} == {(0, "type-0")}
    opening = [("system", 30), ("agent", 100), ("user", 20)]
    assert [len(c.prompt) - 3 for c in ran.calls] == [0, 1, 1, 2, 1, 1, 1, 2]
    assert all(sizes(c)[:3] == opening for c in ran.calls)
    first, one, two, both = ran.calls[:4]
    assert [p.content for p in both.prompt[3:]] == [one.output_content, two.output_content]
    assert one.prompt[0] == two.prompt[0]
    assert one.prompt[1].content != two.prompt[1].content
    assert one.prompt[:3] == both.prompt[:3]
    assert [p.content for p in one.prompt[3:]] == [first.output_content]
    assert ran.workload.expected_requests == 8
    assert ran.workload.closed_loop


def test_all_answers_can_be_read(host: Any) -> None:
    ran = run(host, spec(reads="all"))
    assert [len(c.prompt) for c in ran.calls] == [2, 3, 4, 5, 6, 7]
    answers = [c.output_content for c in ran.calls]
    assert [p.content for p in ran.calls[-1].prompt[2:]] == answers[:-1]


def test_the_hint_says_who_calls_and_who_is_next(host: Any) -> None:
    """Two rounds of 0, then 1 and 2 side by side, then 1 again: eight calls in six stages."""
    ran = run(host, spec(order=(0, (1, 2), 1), shared_tokens=fixed(30)))
    hints = [c.workflow for c in ran.calls]
    assert [h.agent for h in hints] == [f"0/{n}" for n in (0, 1, 2, 1)] * 2
    assert {(h.workflow, h.fixed_tokens) for h in hints} == {(0, 130)}
    assert [{int(agent[2:]): steps for agent, steps in h.steps} for h in hints] == [
        {1: 1, 2: 1, 0: 3},
        {2: 0, 1: 1, 0: 2},  # 2 is called right after
        {1: 1, 0: 2, 2: 3},
        {0: 1, 1: 2, 2: 2},
        {1: 1, 2: 1},
        {2: 0, 1: 1},
        {1: 1},
        {},
    ]
    assert {c.workflow for c in run(host, spec(announce_steps=False)).calls} == {None}


def test_frontends_do_not_know_that_a_workflow_ends_early(host: Any) -> None:
    ran = run(host, spec(rounds=fixed(5), ends_early=1.0, agents=2))
    assert [c.kind for c in ran.calls] == ["agent-0", "agent-1"]
    assert ran.calls[-1].workflow.steps == (("0/0", 1), ("0/1", 2))
    some = run(host, spec(sessions=60, rounds=fixed(4), ends_early=0.5, agents=1))
    assert 60 * 1.5 < len(some.calls) < 60 * 2.3  # 1 + 1/2 + 1/4 + 1/8 rounds each


def test_types_have_agents_of_their_own_and_share_them(host: Any) -> None:
    ran = run(host, spec(sessions=12, workflow_types=WorkflowTypes(count=2)))
    texts: dict[str, set[int]] = {}
    for call in ran.calls:
        texts.setdefault(call.workflow.agent, set()).add(call.prompt[0].content)
    assert sorted(texts) == [f"{kind}/{agent}" for kind in range(2) for agent in range(3)]
    assert all(len(found) == 1 for found in texts.values())
    assert len(set.union(*texts.values())) == 6


def test_the_same_workflows_whatever_the_timing(host: Any) -> None:
    keys: dict[str, Any] = {
        "sessions": 8,
        "rounds": {"kind": "geometric", "mean": 2},
        "output_tokens": {"kind": "lognormal", "median": 50, "sigma": 1},
        "order": (0, (2, 1)),
    }
    slow = run(host, spec(**keys), call_s=9.0)
    quick = run(host, spec(**keys, ramp_s=3), call_s=0.1)
    told = {(c.session, c.turn): c for c in slow.calls}
    assert told == {(c.session, c.turn): c for c in quick.calls}
    assert len(told) == len(slow.calls)


def test_a_full_window_or_a_failure_ends_it(host: Any) -> None:
    assert len(run(host, spec(reads="all"), context=100 + 20 + 3 * 7).calls) == 3
    failing = run(host, spec(order=(0, (1, 2))), fail=lambda call: call.turn == 2)
    assert [c.turn for c in failing.calls] == [0, 1, 2]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"order": (0, 3)}, "order calls agent 3; there are 3"),
        ({"order": ((1, 1),)}, "must name different agents"),
        ({"order": ((),)}, "must name different agents"),
        ({"order": ()}, "order"),
        ({"concurrency": None}, "concurrency"),
    ],
)
def test_wrong_keys_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**keys)
