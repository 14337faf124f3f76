"""Plays sessions on the executor's clock.

Ties at one instant are as in SimPy, which plays them in the simulator: what starts comes before
what goes on, and what goes on does so in the order in which it was woken. So a slot that is given
back is granted one turn later, and a session that waits for others goes on two turns after the
last of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from ...policies.errors import InputError, UnknownNameError
from ...policies.types import Picoseconds
from ...sim.state.session import Call, CallResult, Session, Sleep, Together, Use
from ...sim.state.ties import ARRIVAL, RESUME
from .clock import Clock

Submit: TypeAlias = Callable[[Call, Callable[[CallResult], Any]], None]
Then: TypeAlias = Callable[[Any], None]


class Player:
    """Runs sessions.

    Args:
        resources: slots of each limited resource.
        submit: takes a call; it may never answer, and the session then stays where it is.
    """

    def __init__(self, clock: Clock, resources: dict[str, int], submit: Submit) -> None:
        self._clock, self._submit = clock, submit
        self._resources = {name: _Slots(self._soon, n) for name, n in resources.items()}

    def start(self, session: Session, then: Then = lambda value: None) -> None:
        """Play *session* from now on; *then* gets what it returns, a turn after its end."""
        self._clock.at(self._clock.due_ps, ARRIVAL, lambda _: self._go(session, None, then))

    def _soon(self, call: Callable[[], None]) -> None:
        self._clock.at(self._clock.now_ps, RESUME, lambda _: call())

    def _later(self, duration_ps: Picoseconds, call: Callable[[], None]) -> None:
        self._clock.at(self._clock.due_ps + duration_ps, RESUME, lambda _: call())

    def _go(self, session: Session, result: object, then: Then) -> None:
        try:
            effect = session.send(result)
        except StopIteration as stop:
            value = stop.value
            self._soon(lambda: then(value))
            return

        def on(answer: object) -> None:
            self._go(session, answer, then)

        if isinstance(effect, Call):
            self._submit(effect, lambda answer: self._soon(lambda: on(answer)))
        elif isinstance(effect, Sleep):
            self._later(effect.duration_ps, lambda: on(None))
        elif isinstance(effect, Use):
            self._use(effect, on)
        elif isinstance(effect, Together):
            self._together(effect, on)
        else:
            raise InputError(f"a session yielded {effect!r}, which is no effect")

    def _use(self, effect: Use, on: Then) -> None:
        slots = self._resources.get(effect.resource)
        if slots is None:
            raise UnknownNameError("resource", effect.resource, self._resources)
        limit = effect.timeout_ps
        in_time = limit is None or effect.duration_ps <= limit
        holds_ps = effect.duration_ps if limit is None or in_time else limit

        def release() -> None:
            slots.release()
            on(in_time)

        slots.request(lambda: self._later(holds_ps, release))

    def _together(self, effect: Together, on: Then) -> None:
        values: list[object] = [None] * len(effect.sessions)
        left = len(values)

        def ended(i: int, value: object) -> None:
            nonlocal left
            values[i] = value
            left -= 1
            if not left:
                self._soon(lambda: on(values))

        for i, part in enumerate(effect.sessions):
            self.start(part, partial(ended, i))
        if not values:
            self._soon(lambda: on(values))


class _Slots:
    """A limited resource, first come, first served."""

    def __init__(self, soon: Callable[[Callable[[], None]], None], slots: int) -> None:
        self._soon, self._free = soon, slots
        self._line: deque[Callable[[], None]] = deque()

    def request(self, granted: Callable[[], None]) -> None:
        """Call *granted* when a slot is held."""
        self._line.append(granted)
        self._grant()

    def release(self) -> None:
        """Give a slot back; whoever waits is served a turn later."""
        self._free += 1
        self._soon(self._grant)

    def _grant(self) -> None:
        if self._free and self._line:  # one a turn, as SimPy's resources do
            self._free -= 1
            self._soon(self._line.popleft())
