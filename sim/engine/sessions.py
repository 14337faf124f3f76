"""Plays sessions: turns the effects that a workload yields into SimPy events."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import simpy

from ...policies.errors import InputError, UnknownNameError
from ..state.session import Call, CallResult, Session, Sleep, Together, Use
from .clock import Clock

Submit: TypeAlias = Callable[[Call, Callable[[CallResult], Any]], None]


class Player:
    """Runs sessions as SimPy processes.

    Args:
        resources: slots of each limited resource.
        submit: takes a call; it may never answer, and the session then stays where it is.
    """

    def __init__(self, clock: Clock, resources: dict[str, int], submit: Submit) -> None:
        self._clock, self._submit = clock, submit
        self._resources = {
            name: simpy.Resource(clock, capacity=slots) for name, slots in resources.items()
        }

    def start(self, session: Session) -> Any:
        """Play *session* from now on; the SimPy process that does."""
        return self._clock.process(self._play(session))

    def _play(self, session: Session) -> Generator[Any, Any, object]:
        result: object = None
        while True:
            try:
                effect = session.send(result)
            except StopIteration as stop:
                return stop.value
            if isinstance(effect, Call):
                answered = self._clock.event()
                self._submit(effect, answered.succeed)
                result = yield answered
            elif isinstance(effect, Sleep):
                yield self._clock.timeout(effect.duration_ps)
                result = None
            elif isinstance(effect, Use):
                result = yield from self._use(effect)
            elif isinstance(effect, Together):
                processes = [self.start(part) for part in effect.sessions]
                yield self._clock.all_of(processes)
                result = [process.value for process in processes]
            else:
                raise InputError(f"a session yielded {effect!r}, which is no effect")

    def _use(self, effect: Use) -> Generator[Any, Any, bool]:
        resource = self._resources.get(effect.resource)
        if resource is None:
            raise UnknownNameError("resource", effect.resource, self._resources)
        limit = effect.timeout_ps
        in_time = limit is None or effect.duration_ps <= limit
        with resource.request() as slot:
            yield slot
            yield self._clock.timeout(effect.duration_ps if limit is None or in_time else limit)
        return in_time
