"""Playing a loaded trace back, as arrivals of calls or of sessions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...policies.errors import InputError
from ...policies.types import Segment
from ...sim.state.content import Contents
from ...sim.state.session import Arrival, Call, CallResult, Effect, Session, Sleep, Together
from ...sim.state.streams import Streams
from ..traces.prompts import Prompts
from ..traces.rows import Branch, Fork, Row, Trace
from .built import BuiltWorkload, picoseconds
from .population import limited, timed, users

if TYPE_CHECKING:
    from .trace import TraceSpec

#: id of a sub-agent's session = its parent's + this, times its number in the trace
SUBAGENT_STRIDE = 1 << 32


@dataclass(slots=True)
class _Past:
    """What a session said so far, for formats whose prompts quote it."""

    said: tuple[Segment, ...] = ()


@dataclass(slots=True)
class Replay:
    """One trace, ready to be played once."""

    spec: TraceSpec
    trace: Trace
    streams: Streams
    contents: Contents
    folders: Sequence[Path]
    _prompts: Prompts = field(init=False)
    _models: int = field(init=False)

    def __post_init__(self) -> None:
        self._prompts = Prompts(self.contents, self.trace.block_size)
        self._models = len({row.model for row in self.trace.requests()})

    def built(self) -> BuiltWorkload:
        """The workload.

        Raises:
            InputError: the trace needs arrivals that the scenario does not give, or the reverse.
        """
        trace, spec = self.trace, self.spec
        total = sum(1 for _ in trace.requests())
        notes = [f"trace {Path(trace.file).name}: {n}" for n in trace.notes]
        if trace.sessions:
            return BuiltWorkload(self._sessions(), True, total, notes=notes)
        if spec.concurrency is not None:
            raise InputError(
                f"{trace.format} holds single requests, concurrency is for sessions",
                where="workload.concurrency",
            )
        starts = self._starts()
        if spec.loop == "closed":
            return BuiltWorkload(self._linked(starts), True, total, notes=notes)
        calls = (Arrival(picoseconds(at), self._call(row, _Past())) for at, row in starts)
        return BuiltWorkload(calls, False, total, notes=notes)

    def _times(self, count: int) -> Iterator[float]:
        """Start times from the scenario."""
        arrivals, trace = self.spec.arrivals, self.trace
        if arrivals is None:
            raise InputError(
                f"{trace.format} traces do not say when things start",
                where="workload.arrivals",
                help="give arrivals, e.g. 0.2 (a second, Poisson) or {kind: all-at-once}"
                + (", or concurrency" if trace.sessions else ""),
            )
        times = arrivals.times_s(self.streams.get("arrivals"), self.folders)
        return limited(times, count, self.spec.duration_s)

    def _starts(self) -> Iterable[tuple[float, Row]]:
        """Rows with their start times: the scenario's, or the trace's from its first row on."""
        rows, spec = self.trace.rows, self.spec
        if spec.arrivals is not None or not self.trace.timed:
            return zip(self._times(len(rows)), rows, strict=False)
        zero = rows[0].at_s or 0.0
        starts = [(((row.at_s or 0.0) - zero) * spec.time_scale, row) for row in rows]
        if spec.duration_s is not None:
            starts = [(at, row) for at, row in starts if at <= spec.duration_s]
        picoseconds(starts[-1][0])  # refuses what the clock cannot reach before the run begins
        return starts

    def _linked(self, starts: Iterable[tuple[float, Row]]) -> Iterator[Arrival]:
        """Sessions of rows with times of their own: each also waits for the answer before it."""
        if all(row.session < 0 for row in self.trace.rows):
            raise InputError(
                f"{self.trace.format} traces do not say which requests belong together",
                where="workload.loop",
                help="loop: as-recorded replays them by their times",
            )
        sessions: dict[int, list[Row]] = {}
        firsts: list[tuple[float, list[Row]]] = []
        for at, row in starts:
            if row.session in sessions:
                sessions[row.session].append(row)
                continue
            rows = [row]
            if row.session >= 0:
                sessions[row.session] = rows
            firsts.append((at, rows))
        return (Arrival(picoseconds(at), partial(self._steps, rows)) for at, rows in firsts)

    def _sessions(self) -> Iterator[Arrival]:
        sessions, spec = self.trace.sessions, self.spec

        def session(number: int) -> Session:
            return self._steps(sessions[number].steps)

        if spec.concurrency is not None:
            return users(spec.concurrency, spec.ramp_s, len(sessions), session)
        return timed(self._times(len(sessions)), session)

    def _steps(self, steps: Sequence[Row | Fork], session: int | None = None) -> Session:
        """Play the steps of one session; a failed call does not end it, as the record goes on."""
        past = _Past()
        for i, step in enumerate(steps):
            if isinstance(step, Fork):
                yield Together(tuple(self._branch(branch) for branch in step.branches))
                continue
            pause_s = self._pause_s(step) if i else 0.0
            if pause_s:
                yield Sleep(picoseconds(pause_s))
            call = self._call(step, past, session)
            result = yield from self._paced(call, steps[i + 1] if i + 1 < len(steps) else None)
            past.said = (*call.prompt, *_answer(call, result))
        return None

    def _paced(
        self, call: Call, following: Row | Fork | None
    ) -> Generator[Effect, object, CallResult]:
        """Make a call; where only the next one's sending is recorded, wait for that time too."""
        gap_s = following.gap_s if isinstance(following, Row) else None
        if gap_s is None:
            result = yield call
        else:
            scale = self.spec.time_scale if self.trace.timed else self.spec.think_scale
            both = yield Together((_one(call), _sleep(gap_s * scale)))
            assert isinstance(both, list | tuple)
            result = both[0]
        assert isinstance(result, CallResult)
        return result

    def _branch(self, branch: Branch) -> Session:
        first = branch.rows[0]
        if branch.delay_s:
            yield Sleep(picoseconds(branch.delay_s * self.spec.think_scale))
        number = first.session + SUBAGENT_STRIDE * (first.number + 1)
        return (yield from self._steps(branch.rows, number))

    def _pause_s(self, row: Row) -> float:
        """The wait between the last answer and *row*; none where `_paced` has seen to it."""
        if row.think_s is not None:
            return row.think_s * self.spec.think_scale
        if row.gap_s is not None or self.spec.think_s is None:
            return 0.0
        return self.spec.think_s.draw(self.streams.get("think", row.session, row.turn))

    def _call(self, row: Row, past: _Past, session: int | None = None) -> Call:
        apart = self.spec.models == "apart" and self._models > 1
        return Call(
            prompt=self._prompts.prompt(row, past.said),
            output_tokens=row.output_tokens,
            output_content=self._prompts.answer(row),
            session=row.session if session is None else session,
            turn=row.turn,
            kind=row.kind,
            model=row.model if self.spec.models == "named" else "",
            salt=row.model if apart else "",
            items=self._prompts.items(row),
            tool_time_s=-1.0 if self.spec.tool_time_s is None else self.spec.tool_time_s,
        )


def _one(call: Call) -> Session:
    return (yield call)


def _sleep(seconds: float) -> Session:
    yield Sleep(picoseconds(seconds))
    return None


def _answer(call: Call, result: CallResult) -> tuple[Segment, ...]:
    if not result.output_tokens:
        return ()
    return (Segment(call.output_content, 0, result.output_tokens, "assistant"),)
