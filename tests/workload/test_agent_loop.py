"""What agents do: tools with limits and luck, sub-agents, compaction, failures, timing."""

from __future__ import annotations

from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.policies.types import PS_PER_S
from infersim.scenarios.workload.agent.parts import ToolSpec
from infersim.scenarios.workload.agent.spec import AgentSpec
from infersim.scenarios.workload.distributions import fixed
from infersim.sim.state.content import Contents
from infersim.sim.state.streams import Streams

BASE: dict[str, Any] = {
    "kind": "agent",
    "sessions": 1,
    "concurrency": 1,
    "system_tokens": 500,
    "tools_tokens": 400,
    "tool_schemas": 4,
    "developer_tokens": 50,
    "environment": {"tokens": 50},
    "task_tokens": 100,
    "steps": 3,
    "reasoning_tokens": 20,
    "answer_tokens": 30,
    "final_tokens": 80,
    "tools": ({"latency_s": 4, "result_tokens": 200},),
    "window_tokens": 100_000,
}


def run(host: Any, call_s: float = 1.0, fail: Any = bool, **keys: Any) -> Any:
    spec = AgentSpec.model_validate({**BASE, **keys})
    return host(spec.build(Streams(0), Contents()), call_s, fail).run()


def test_call_tool_call_tool_call(host: Any) -> None:
    ran = run(host)
    assert ran.call_times == [0, 5, 10]
    assert [c.tool_time_s for c in ran.calls] == [4.0, 4.0, -1.0]
    assert [c.output_tokens for c in ran.calls] == [50, 50, 100]
    assert ran.workload.resources == {"cpu": 64}
    assert ran.workload.closed_loop
    assert ran.workload.expected_requests == 3
    silent = run(host, announce_tool_time=False)
    assert {c.tool_time_s for c in silent.calls} == {-1.0}


def test_cpu_slots_are_shared_and_the_sandbox_starts_once(host: Any) -> None:
    ran = run(host, sessions=3, concurrency=3, cpu_slots=1, sandbox={"start_s": 10}, steps=2)
    assert [at for at, what, _ in ran.log if what == "use"] == [1, 11, 21, 31, 35, 39]
    assert ran.call_times == [0, 0, 0, 35, 39, 43]
    free = run(host, tools=({"latency_s": 4, "uses_cpu": False},), sandbox={"start_s": 10})
    assert not [1 for _, what, _ in free.log if what == "use"]


def test_parallel_tools_run_side_by_side_and_return_in_order(host: Any) -> None:
    ran = run(host, parallel_tools=3, steps=2)
    assert ran.call_times == [0, 5]
    assert [p.label for p in ran.calls[1].prompt][-4:] == ["assistant"] + ["tool result"] * 3
    assert run(host, parallel_tools=3, steps=2, cpu_slots=1).call_times == [0, 13]


@pytest.mark.parametrize("uses_cpu", [True, False])
def test_timeouts_and_retries(host: Any, uses_cpu: bool) -> None:
    tool = {"latency_s": 4, "result_tokens": 200, "uses_cpu": uses_cpu, "error_tokens": 9}
    cut = run(host, tools=({**tool, "timeout_s": 3.0, "retries": 2},), steps=2)
    assert cut.call_times == [0, 4]  # cut off at 3 s, not retried
    assert cut.calls[1].prompt[-1].tokens == 9
    failing = {**tool, "failure": 1.0, "retries": 2, "retry_wait_s": 5.0}
    failed = run(host, tools=(failing,), steps=2)
    assert failed.call_times == [0, 1 + 3 * 4 + 2 * 5]
    assert failed.calls[1].prompt[-1].tokens == 9
    assert failed.calls[0].tool_time_s == 3 * 4 + 2 * 5


def test_expected_time_of_a_flaky_tool() -> None:
    tool = ToolSpec(latency_s=fixed(4), failure=0.5, retries=1, retry_wait_s=2.0, timeout_s=3.0)
    assert tool.expected_s() == 1.5 * 3 + 0.5 * 2


def test_several_tasks_with_thinking_between(host: Any) -> None:
    ran = run(host, tasks=2, think_s=100, steps=1)
    assert ran.call_times == [0, 101]
    assert [p.label for p in ran.calls[1].prompt][-3:] == ["user", "assistant", "user"]
    assert ran.calls[1].turn == 1


def test_subagents_report_to_their_parent(host: Any) -> None:
    sub = {
        "share": 1.0,
        "at_once": 2,
        "system_tokens": 70,
        "tools_tokens": 40,
        "task_tokens": 11,
        "steps": 2,
        "final_tokens": 60,
    }
    ran = run(host, subagents=sub, steps=2)
    parents = [c for c in ran.calls if c.kind == "agent"]
    children = [c for c in ran.calls if c.kind == "subagent"]
    assert (len(parents), len(children)) == (2, 4)
    assert {c.session for c in parents} == {0}
    assert len({c.session for c in children}) == 2
    assert [c.turn for c in children] == [0, 0, 1, 1]
    assert children[0].prompt[0] == children[1].prompt[0] != parents[0].prompt[0]
    reports = parents[1].prompt[-2:]
    assert [(p.label, p.offset, p.tokens) for p in reports] == [("subagent result", 20, 60)] * 2
    assert [p.content for p in reports] == [c.output_content for c in children[2:]]
    assert ran.call_times == [0, 1, 1, 6, 6, 7]
    nested = run(host, subagents={**sub, "depth": 2, "at_once": 1}, steps=2)
    sessions = {c.session for c in nested.calls}
    assert len(sessions) == 3
    assert max(sessions) < 1 << 62


def test_a_failed_subagent_is_an_error_to_its_parent(host: Any) -> None:
    ran = run(
        host,
        fail=lambda call: call.kind == "subagent",
        subagents={"share": 1.0},
        steps=2,
    )
    assert [c.kind for c in ran.calls] == ["agent", "subagent", "agent"]
    assert ran.calls[-1].prompt[-1].label == "tool result"


def test_a_failed_call_ends_the_agent(host: Any) -> None:
    ran = run(host, sessions=2, fail=lambda call: call.session == 0 and call.turn == 1)
    assert [(c.session, c.turn) for c in ran.calls] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_compaction_replaces_the_history_by_what_the_model_wrote(host: Any) -> None:
    compaction = {"at": 0.9, "instruction_tokens": 20, "summary_tokens": 150}
    ran = run(host, window_tokens=2000, steps=12, compaction=compaction)
    kinds = [c.kind for c in ran.calls]
    assert kinds.count("agent") == 12
    assert "compaction" in kinds
    for call in ran.calls:
        assert sum(p.tokens for p in call.prompt) + call.output_tokens <= 2000
    at = kinds.index("compaction")
    asked, after = ran.calls[at], ran.calls[at + 1]
    assert asked.prompt[-1].label == "user"
    assert asked.output_tokens == 150
    assert [p.label for p in after.prompt][-1] == "summary"
    assert after.prompt[-1].content == asked.output_content
    assert after.prompt[:4] == ran.calls[0].prompt[:4]
    assert [c.turn for c in ran.calls] == list(range(len(kinds)))
    kept = run(host, window_tokens=2000, steps=12, compaction={**compaction, "keep_last": 2})
    at = [c.kind for c in kept.calls].index("compaction")
    labels = [p.label for p in kept.calls[at + 1].prompt]
    assert labels[-3:] == ["summary", "assistant", "tool result"]


def test_results_are_cut_to_leave_room_for_a_summary(host: Any) -> None:
    ran = run(host, window_tokens=4000, tools=({"latency_s": 1, "result_tokens": 50_000},), steps=9)
    for call in ran.calls:
        assert sum(p.tokens for p in call.prompt) + call.output_tokens <= 4000


def test_without_compaction_the_engine_is_asked_for_too_much(host: Any) -> None:
    ran = run(host, window_tokens=2000, steps=12, compaction={"enabled": False})
    assert {c.kind for c in ran.calls} == {"agent"}
    assert sum(p.tokens for p in ran.calls[-1].prompt) > 2000
    no_window = AgentSpec.model_validate({**BASE, "window_tokens": None})
    with pytest.raises(InputError, match="compaction needs to know the window"):
        no_window.build(Streams(0), Contents())
    assert no_window.build(Streams(0), Contents(), context_tokens=4000).closed_loop


def test_agents_do_not_depend_on_timing(host: Any) -> None:
    keys: dict[str, Any] = {
        "sessions": 12,
        "concurrency": 4,
        "cpu_slots": 2,
        "steps": {"kind": "lognormal", "median": 8, "sigma": 0.6},
        "tools": (
            {"name": "read", "weight": 3.0, "failure": 0.2, "retries": 1},
            {"name": "test", "latency_s": {"kind": "exponential", "mean": 30}, "timeout_s": 40.0},
        ),
        "parallel_tools": {"kind": "choice", "values": [1, 3]},
        "subagents": {"share": 0.3, "at_once": 2, "depth": 2},
        "window_tokens": 12_000,
        "drift": 0.3,
        "habits": {"tools_reordered": 0.2, "model_switched": {"share": 0.2}},
        "environment": {"changes": 0.3},
    }
    fast, slow = run(host, 0.1, **keys), run(host, 90.0, **keys)

    def said(ran: Any) -> Any:
        return sorted(
            (c.session, c.turn, c.kind, c.output_tokens, c.salt, [p.tokens for p in c.prompt])
            for c in ran.calls
        )

    assert said(fast) == said(slow)
    assert len(fast.calls) > 100
    assert len({(c.session, c.turn) for c in fast.calls}) == len(fast.calls)
    assert len({c.output_content for c in fast.calls}) == len(fast.calls)
    assert fast.log[-1][0] * PS_PER_S < slow.log[-1][0] * PS_PER_S
