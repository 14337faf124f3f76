"""Structured output: which answers follow a grammar, and how long compiling each takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Any

from pydantic import Field

from ...policies.types import Grammar
from ...sim.state.content import Contents
from ...sim.state.session import Arrival, Call, Effect, Session, Together
from ...sim.state.streams import Streams
from .built import BuiltWorkload, picoseconds
from .distributions import Distribution, fixed
from .popularity import Popularity
from .shorthand import Share

_BITS = 53  #: of a number from 0 to 1


class Grammars(Popularity):
    """Grammars (JSON schemas, regular expressions) that answers must follow.

    Compiled for a simple function's schema xgrammar took vLLM 0.21 about 10 ms, where somebody
    measured it; benchmarks of real JSON schemas (JSONSchemaBench, arXiv:2501.10868) go from next to
    nothing (llguidance) to seconds and more.
    """

    share: Share = Field(default=1.0, description="of the requests that have one")
    compile_s: Distribution = Field(
        default=fixed(0.01),
        description="seconds to compile one, drawn once for each; it is compiled by each replica "
        "that is asked for it, the first time",
    )


class Structured:
    """Gives calls their grammars: a function of seed and answer, whatever the timing."""

    def __init__(self, spec: Grammars, streams: Streams, contents: Contents) -> None:
        self._spec, self._contents = spec, contents
        rng = streams.get("grammars")
        self._salt = rng.bytes(16)
        self._grammars = [
            Grammar(key, picoseconds(max(0.0, spec.compile_s.draw(rng))))
            for key in range(spec.count)
        ]

    def call(self, call: Call) -> Call:
        """*call*, with a grammar if it is to have one."""
        name = repr(self._contents.key(call.output_content)).encode()
        digest = blake2b(name, digest_size=16, key=self._salt).digest()
        chosen, which = (_unit(part) for part in (digest[:8], digest[8:]))
        if chosen >= self._spec.share:
            return call
        return call._replace(grammar=self._grammars[self._spec.at(which)])

    def arrivals(self, stream: Iterator[Arrival]) -> Iterator[Arrival]:
        """*stream* with the calls of its sessions, and their parts, as `call` makes them."""
        for at_ps, what in stream:
            if isinstance(what, Call):
                yield Arrival(at_ps, self.call(what))
            else:
                yield Arrival(at_ps, partial(self._begun, what))

    def _begun(self, start: Any) -> Session:
        return (yield from self._session(start()))

    def _session(self, session: Session) -> Session:
        result: object = None
        try:
            effect = next(session)
            while True:
                result = yield self._effect(effect)
                effect = session.send(result)
        except StopIteration as ended:
            return ended.value

    def _effect(self, effect: Effect) -> Effect:
        if isinstance(effect, Call):
            return self.call(effect)
        if isinstance(effect, Together):
            return Together(tuple(self._session(part) for part in effect.sessions))
        return effect


def _unit(part: bytes) -> float:
    """64 bits as a number from 0 to below 1."""
    return float((int.from_bytes(part, "little") >> (64 - _BITS)) / (1 << _BITS))


def structured(
    built: BuiltWorkload, spec: Grammars | None, streams: Streams, contents: Contents
) -> BuiltWorkload:
    """*built* with the grammars of *spec*; as it is where that is None."""
    if spec is None:
        return built
    return replace(built, stream=Structured(spec, streams, contents).arrivals(built.arrivals()))
