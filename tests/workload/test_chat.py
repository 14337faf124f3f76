"""Chat: history grows by question and answer, people think, failures end it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from infersim.scenarios.workload.chat import ChatSpec
from infersim.scenarios.workload.distributions import fixed
from infersim.scenarios.workload.texts import SharedText
from infersim.sim.state.content import Contents
from infersim.sim.state.streams import Streams


def spec(**keys: Any) -> ChatSpec:
    base: dict[str, Any] = {
        "kind": "chat",
        "sessions": 3,
        "concurrency": 1,
        "turns": fixed(3),
        "think_s": fixed(10),
        "prompt_tokens": fixed(20),
        "output_tokens": fixed(50),
        "system": SharedText(tokens=fixed(100)),
    }
    return ChatSpec.model_validate({**base, **keys})


def run(host: Any, workload_spec: ChatSpec, context: int | None = None, **keys: Any) -> Any:
    workload = workload_spec.build(Streams(0), Contents(), context_tokens=context)
    return host(workload, **keys).run()


def test_a_conversation_is_sent_whole_each_time(host: Any) -> None:
    ran = run(host, spec(sessions=1))
    first, second, third = ran.calls
    assert [p.label for p in third.prompt] == ["system"] + ["user", "assistant"] * 2 + ["user"]
    assert second.prompt[:2] == first.prompt
    assert second.prompt[2].content == first.output_content
    assert (second.prompt[2].offset, second.prompt[2].tokens) == (0, 50)
    assert third.prompt[: len(second.prompt)] == second.prompt
    assert [c.turn for c in ran.calls] == [0, 1, 2]
    assert ran.call_times == [0, 11, 22]
    assert {c.tool_time_s for c in ran.calls} == {10.0}


def test_concurrency_keeps_so_many_at_work(host: Any) -> None:
    ran = run(host, spec(sessions=5, concurrency=2, ramp_s=4))
    starts = [(t, c.session) for t, c in zip(ran.call_times, ran.calls, strict=True) if not c.turn]
    assert starts == [(0, 0), (2, 1), (23, 2), (25, 3), (46, 4)]
    assert ran.workload.expected_requests == 15
    assert len(ran.calls) == 15


def test_a_full_window_or_a_failure_ends_it(host: Any) -> None:
    assert [c.session for c in run(host, spec(sessions=2), context=240).calls] == [0, 0, 1, 1]
    failing = run(host, spec(sessions=2), fail=lambda call: call.turn == 1)
    assert [c.turn for c in failing.calls] == [0, 1, 0, 1]


def test_what_was_cut_short_is_quoted_short(host: Any) -> None:
    ran = run(host, spec(sessions=1, max_tokens=30))
    assert [p.tokens for p in ran.calls[1].prompt] == [100, 20, 30, 20]


def test_sessions_do_not_depend_on_timing(host: Any) -> None:
    keys = {"turns": {"kind": "geometric", "mean": 3}, "sessions": 20, "concurrency": 4}
    keys["output_tokens"] = {"kind": "lognormal", "median": 50, "sigma": 1}
    fast, slow = run(host, spec(**keys)), run(host, spec(**keys), call_s=77.0)

    def said(ran: Any) -> Any:
        return sorted((c.session, c.turn, c.output_tokens) for c in ran.calls)

    assert said(fast) == said(slow)
    assert [c.session for c in fast.calls] != [c.session for c in slow.calls]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"concurrency": None}, "arrivals .* or concurrency"),
        ({"arrivals": 3.0}, "exclude each other"),
        ({"concurrency": None, "arrivals": 1.0, "sessions": None}, "sessions or duration_s"),
        ({"duration_s": 9.0}, "goes with arrivals"),
        ({"concurrency": None, "arrivals": 1.0, "ramp_s": 2.0}, "goes with concurrency"),
    ],
)
def test_populations_that_do_not_go_together(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**keys)


def test_sessions_arrive_until_the_end(host: Any) -> None:
    ran = run(host, spec(concurrency=None, arrivals=1.0, sessions=None, duration_s=50.0))
    starts = [t for t, c in zip(ran.call_times, ran.calls, strict=True) if c.turn == 0]
    assert 25 < len(starts) < 80
    assert max(starts) <= 50
    assert ran.workload.expected_requests is None
