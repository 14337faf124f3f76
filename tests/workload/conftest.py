"""A tiny host: runs a workload with calls of fixed duration, and keeps a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import pytest

from infersim.policies.types import PS_PER_S
from infersim.sim.state.session import Call, CallResult, Session, Sleep, Together, Use

Done = Callable[[object], None]


class Host:
    """Log: (seconds, what, object). A call lasts `call_s`; answers longer than its cap are cut."""

    def __init__(self, workload: Any, call_s: float = 1.0, fail: Callable[[Call], bool] = bool):
        self.workload, self.call_ps, self.fail = workload, round(call_s * PS_PER_S), fail
        self.now, self.order = 0, count()
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.free = dict(workload.resources)
        self.waiting: dict[str, deque[Callable[[], None]]] = {r: deque() for r in self.free}
        self.log: list[tuple[float, str, Any]] = []
        self.ended: list[object] = []

    def run(self) -> Host:
        last = 0
        for arrival in self.workload.arrivals():
            assert arrival.at_ps >= last
            last = arrival.at_ps
            self.at(arrival.at_ps, lambda what=arrival.what: self.begin(what))
        while self.queue:
            self.now, _, act = heappop(self.queue)
            act()
        return self

    def at(self, when: int, act: Callable[[], None]) -> None:
        heappush(self.queue, (when, next(self.order), act))

    def note(self, what: str, thing: Any) -> None:
        self.log.append((self.now / PS_PER_S, what, thing))

    def begin(self, what: Any) -> None:
        if isinstance(what, Call):
            self.note("call", what)
        else:
            self.step(what(), None, self.ended.append)

    def step(self, session: Session, value: object, done: Done) -> None:
        try:
            effect = session.send(value)
        except StopIteration as end:
            done(end.value)
            return
        if isinstance(effect, Call):
            assert all(part.tokens > 0 for part in effect.prompt)
            assert effect.output_tokens > 0
            self.note("call", effect)
            result = CallResult(True, "", effect.output_tokens)
            if effect.max_tokens is not None:
                result = CallResult(True, "", min(effect.output_tokens, effect.max_tokens))
            if self.fail is not bool and self.fail(effect):
                result = CallResult(False, "refused", 0)
            self.at(self.now + self.call_ps, lambda: self.step(session, result, done))
        elif isinstance(effect, Sleep):
            self.note("sleep", effect)
            self.at(self.now + effect.duration_ps, lambda: self.step(session, None, done))
        elif isinstance(effect, Use):
            self.use(session, effect, done)
        else:
            assert isinstance(effect, Together)
            results: list[object] = [None] * len(effect.sessions)
            left = [len(results)]

            def one(i: int, result: object) -> None:
                results[i] = result
                left[0] -= 1
                if not left[0]:
                    self.step(session, results, done)

            for i, part in enumerate(effect.sessions):
                self.step(part, None, lambda result, i=i: one(i, result))

    def use(self, session: Session, effect: Use, done: Done) -> None:
        def begin() -> None:
            self.note("use", effect)
            cut = effect.timeout_ps is not None and effect.duration_ps > effect.timeout_ps
            held = effect.timeout_ps if cut else effect.duration_ps
            self.at(self.now + held, lambda: end(not cut))

        def end(result: bool) -> None:
            if self.waiting[effect.resource]:
                self.waiting[effect.resource].popleft()()
            else:
                self.free[effect.resource] += 1
            self.step(session, result, done)

        if self.free[effect.resource]:
            self.free[effect.resource] -= 1
            begin()
        else:
            self.waiting[effect.resource].append(begin)

    @property
    def calls(self) -> list[Call]:
        return [thing for _, what, thing in self.log if what == "call"]

    @property
    def call_times(self) -> list[float]:
        return [at for at, what, _ in self.log if what == "call"]


@pytest.fixture
def host() -> type[Host]:
    return Host
