"""Clock, spans of steps, links and sessions: logs of (time, what)."""

from __future__ import annotations

from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.types import PS_PER_S
from infersim.sim.cost.base import StepShape
from infersim.sim.engine.clock import ARRIVAL, REPLICA, SAMPLE, Clock
from infersim.sim.engine.leap import Span
from infersim.sim.engine.sessions import Player
from infersim.sim.state.link import FifoLink
from infersim.sim.state.session import Call, CallResult, Sleep, Together, Use

FEW = settings(max_examples=100, derandomize=True, deadline=None)


@FEW
@given(
    start=st.integers(0, 10**6),
    first=st.integers(1, 10**4),
    growth=st.one_of(st.just(0), st.integers(1, 500)),
    steps=st.integers(1, 200),
    late=st.integers(-1, 1),
)
def test_a_span_is_its_steps_one_after_another(
    start: int, first: int, growth: int, steps: int, late: int
) -> None:
    span = Span(start, first, growth)
    ends = [start]
    for j in range(steps + 1):
        ends.append(ends[-1] + first + j * growth)
    assert [span.end(j) for j in range(steps + 2)] == ends
    asked = ends[steps] + late
    assert span.steps_by(asked) == next(j for j, end in enumerate(ends) if end >= asked)
    assert span.steps_by(start) == span.steps_by(start - 1) == 0


def test_spans_stay_exact_where_floats_are_not() -> None:
    """Months of picoseconds have more digits than a double."""
    span = Span(0, 10**15 + 1, 10**9 + 1)
    for steps in (1, 10**4, 10**5):
        assert span.steps_by(span.end(steps)) == steps
        assert span.steps_by(span.end(steps) + 1) == steps + 1
        assert span.steps_by(span.end(steps) - 1) == steps


def test_a_link_carries_one_message_at_a_time() -> None:
    link = FifoLink(latency_ps=100, bytes_per_s=PS_PER_S // 10)  # 10 ps a byte
    assert link.send(1000, 5) == 1150
    assert link.send(1010, 2) == 1170  # waits for the wire, not for the latency
    assert link.send(5000, 1) == 5110
    assert (link.carried_bytes, link.busy_ps) == (8, 80)
    assert FifoLink(0, 3 * PS_PER_S).send(0, 1) == 1  # part of a picosecond is one


@FEW
@given(
    decodes=st.integers(1, 9),
    context=st.integers(1, 200),
    steps=st.integers(1, 30),
)
def test_the_cost_of_these_tests_keeps_the_contract(
    lab: Any, decodes: int, context: int, steps: int
) -> None:
    """Pure decode costs what its line says, up to where the line says."""
    cost = lab.SteppedCost(900, 2, 17)
    line = cost.decode_line(decodes, context)
    for at in range(context, min(context + steps, line.until)):
        shape = StepShape(decodes, at, (), decodes)
        assert cost.duration_ps(shape) == line.base_ps + line.slope_ps * at


# ---- the clock ----


def test_ties_go_by_priority_never_by_insertion() -> None:
    clock, log = Clock(), []
    for name, at, priority in (
        ("sample", 5, SAMPLE),
        ("replica 1", 5, REPLICA + 1),
        ("replica 0", 5, REPLICA),
        ("arrival", 5, ARRIVAL),
        ("early", 4, SAMPLE),
    ):
        clock.at(at, priority, lambda _, name=name: log.append((clock.now_ps, name)))
    clock.run_out()
    assert log == [
        (4, "early"),
        (5, "arrival"),
        (5, "replica 0"),
        (5, "replica 1"),
        (5, "sample"),
    ]


def test_the_clock_knows_what_of_an_instant_is_past() -> None:
    clock, log = Clock(), []

    def look(_: object) -> None:
        log.append([clock.passed(p) for p in (ARRIVAL, REPLICA, REPLICA + 1, REPLICA + 2)])

    clock.at(5, REPLICA + 1, look)
    clock.at(6, ARRIVAL, look)
    clock.run_out()
    assert log == [[True, True, True, False], [True, False, False, False]]


def test_callbacks_and_processes_share_one_queue() -> None:
    clock, log = Clock(), []

    def process() -> Any:
        yield clock.timeout(5)
        log.append(("process", clock.now_ps))
        clock.at(9, REPLICA, lambda _: log.append(("callback", clock.now_ps)))
        yield clock.timeout(4)
        log.append(("process", clock.now_ps))

    clock.process(process())
    assert not clock.quiet
    clock.run_out()
    assert log == [("process", 5), ("process", 9), ("callback", 9)]
    clock.at(10, SAMPLE, log.append)
    assert clock.quiet


def test_an_error_in_a_process_comes_out() -> None:
    clock = Clock()

    def process() -> Any:
        yield clock.timeout(1)
        raise ValueError("out of the process")

    clock.process(process())
    with pytest.raises(ValueError, match="out of the process"):
        clock.run_out()
    assert isinstance(clock, simpy.Environment)


# ---- sessions ----


class Desk:
    """Answers every call after 10 ps, and logs who asked when."""

    def __init__(self, slots: int = 1) -> None:
        self.clock, self.log = Clock(), []
        self.player = Player(self.clock, {"cpu": slots}, self.submit)

    def submit(self, call: Call, answer: Any) -> None:
        self.log.append((self.clock.now_ps, call.output_content))
        result = CallResult(True, "", call.output_tokens)
        self.clock.at(self.clock.now_ps + 10, ARRIVAL, lambda _: answer(result))

    def play(self, *sessions: Any) -> list[Any]:
        processes = [self.player.start(session) for session in sessions]
        self.clock.run_out()
        return [process.value for process in processes]


def ask(name: int, output: int = 3) -> Call:
    return Call((), output, name)


def test_a_session_calls_waits_and_returns() -> None:
    desk = Desk()

    def session() -> Any:
        first = yield ask(1)
        assert isinstance(first, CallResult)
        slept = yield Sleep(5)
        second = yield ask(2, 7)
        return first.output_tokens, slept, second.output_tokens, desk.clock.now_ps

    assert desk.play(session()) == [(3, None, 7, 25)]
    assert desk.log == [(0, 1), (15, 2)]


def test_slots_are_queued_for_in_order_and_time_out_inside() -> None:
    desk = Desk(slots=1)

    def session(name: int, duration: int, timeout: int | None) -> Any:
        in_time = yield Use("cpu", duration, timeout)
        return name, in_time, desk.clock.now_ps

    played = desk.play(session(1, 10, None), session(2, 50, 4), session(3, 4, 4), session(4, 3, 9))
    assert played == [(1, True, 10), (2, False, 14), (3, True, 18), (4, True, 21)]


def test_two_slots_serve_two() -> None:
    desk = Desk(slots=2)

    def session() -> Any:
        yield Use("cpu", 10)
        return desk.clock.now_ps

    assert desk.play(session(), session(), session()) == [10, 10, 20]


def test_sessions_side_by_side_end_with_the_last() -> None:
    desk = Desk()

    def part(name: int, wait: int) -> Any:
        yield Sleep(wait)
        yield ask(name)
        return name

    def whole() -> Any:
        results = yield Together((part(1, 20), part(2, 0)))
        nothing = yield Together(())
        return results, nothing, desk.clock.now_ps

    assert desk.play(whole()) == [([1, 2], [], 30)]
    assert desk.log == [(0, 2), (20, 1)]
