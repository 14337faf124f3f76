"""Sessions play on the executor's clock as they do in SimPy, ties and all."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from infersim.calibrate.executor.clock import VirtualClock
from infersim.calibrate.executor.sessions import Player as Ours
from infersim.policies.types import Segment
from infersim.sim.engine.clock import ARRIVAL, REPLICA, Clock
from infersim.sim.engine.sessions import Player as SimPys
from infersim.sim.state.session import Call, CallResult, Session, Sleep, Together, Use

SLOTS = {"cpu": 2, "disk": 1}


def script(rng: Random, depth: int) -> list[Any]:
    steps: list[Any] = []
    for _ in range(rng.randrange(5)):
        kind = rng.choice(("call", "sleep", "use", "together" if depth else "use"))
        if kind == "together":
            steps.append((kind, [script(rng, depth - 1) for _ in range(rng.randrange(4))]))
        elif kind == "use":
            limit = rng.choice((None, 0, 1, 3))
            steps.append((kind, Use(rng.choice(list(SLOTS)), rng.randrange(4), limit)))
        else:
            steps.append((kind, rng.randrange(3)))
    return steps


def play(steps: list[Any], name: str, log: Callable[[Any], None]) -> Session:
    """Carry out *steps*, logging every result."""
    for i, (kind, value) in enumerate(steps):
        log((name, i, "asks"))
        if kind == "call":
            result = yield Call((Segment(value, 0, 1),), 1, 1)
        elif kind == "sleep":
            result = yield Sleep(value)
        elif kind == "use":
            result = yield value
        else:
            parts = [play(part, f"{name}.{i}.{j}", log) for j, part in enumerate(value)]
            result = yield Together(tuple(parts))
        log((name, i, result))
    return name


def played(clock: Any, make: Any, scripts: list[Any], starts: list[int]) -> list[Any]:
    """(time, what) of everything that happens."""
    seen: list[Any] = []

    def submit(call: Call, answer: Callable[[CallResult], Any]) -> None:
        delay = call.prompt[0].content
        if not delay:
            answer(CallResult(False, "refused", 0))
            return
        clock.at(clock.now_ps + delay, REPLICA, lambda _: answer(CallResult(True, "", 1)))

    player = make(clock, SLOTS, submit)
    for i, (steps, at) in enumerate(zip(scripts, starts, strict=True)):
        session = play(steps, str(i), lambda what: seen.append((clock.now_ps, what)))
        clock.at(at, ARRIVAL, lambda _, session=session: player.start(session))
    clock.run_out()
    return seen


@pytest.mark.parametrize("seed", range(60))
def test_both_players_agree(seed: int) -> None:
    logs = []
    for clock, make in ((Clock(), SimPys), (VirtualClock(), Ours)):
        rng = Random(seed)
        scripts = [script(rng, 2) for _ in range(6)]
        logs.append(played(clock, make, scripts, [rng.randrange(3) for _ in scripts]))
    assert logs[0] == logs[1]
    assert logs[0]
