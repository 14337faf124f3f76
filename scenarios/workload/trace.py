"""A recorded trace as a workload: open loop by its timestamps, or closed loop by its pauses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...policies.errors import InputError
from ...sim.state.content import Contents
from ...sim.state.streams import Streams
from ..schema.base import Spec
from ..traces.formats import FORMATS
from ..traces.load import load, named
from ..traces.rows import Trace
from ..traces.source import Options
from .agent.spec import AgentSpec
from .arrivals import Arrivals
from .built import BuiltWorkload
from .chat import ChatSpec
from .distributions import Distribution
from .grammars import Grammars, structured
from .open_loop import OpenLoopSpec
from .population import check_population
from .replay import Replay
from .shorthand import Count, Few, NotNegative, Positive, found

Fallback = Annotated[OpenLoopSpec | ChatSpec | AgentSpec, Field(discriminator="kind")]


@lru_cache(maxsize=1)
def _loaded(
    path: Path, changed_ns: int, size_bytes: int, format: str | None, options: Options
) -> Trace:
    """The trace; the cells of a comparison that one process runs read an unchanged file once."""
    return load(path, format=format, options=options)


class TraceSpec(Spec):
    """A trace file. What it does not record (session starts, say) the scenario supplies."""

    kind: Literal["trace"]
    file: str = Field(description="the trace, plain or .gz, .xz, .zst; relative to this file")
    source: str = Field(default="", description="where to get it; shown when it is absent")
    format: str | None = Field(
        default=None, description=f"recognised by content when left out: {', '.join(FORMATS)}"
    )
    block_size: Count | None = Field(
        default=None, description="tokens of one block id; the format's own when left out"
    )
    requests: Count | None = Field(
        default=None, description="only the first so many requests (traces of single requests)"
    )
    sessions: Count | None = Field(
        default=None, description="only the first so many sessions (traces of sessions)"
    )
    duration_s: Positive | None = Field(
        default=None, description="nothing starts after this, in scaled time"
    )
    time_scale: Positive = Field(
        default=1.0,
        description="on recorded arrival times, which count from the first; 2: half the rate",
    )
    think_scale: NotNegative = Field(default=1.0, description="on recorded pauses within a session")
    loop: Literal["as-recorded", "closed"] = Field(
        default="as-recorded",
        description="closed: a request also waits for its session's last answer, where arrivals "
        "are recorded",
    )
    arrivals: Arrivals | None = Field(
        default=None,
        description="when sessions (or requests without times) start; over recorded times if given",
    )
    concurrency: Few | None = Field(
        default=None, description="so many sessions at any time, instead of arrivals"
    )
    ramp_s: NotNegative = Field(
        default=0.0, description="with concurrency: the first ones start evenly over this time"
    )
    think_s: Distribution | None = Field(
        default=None, description="pause before a turn, where the trace records none; 0 if left out"
    )
    tool_time_s: NotNegative | None = Field(
        default=None,
        description="how long clients say they will be away after an answer; nothing if left out",
    )
    models: Literal["apart", "together", "named"] = Field(
        default="apart",
        description="requests of different models in the trace: apart: all go to the scenario's "
        "model, KV is shared only within each; together: as one model; named: by their names",
    )
    zero_output: Literal["keep", "drop", "refuse"] = Field(
        default="keep",
        description="requests without answer tokens: kept with one token, dropped, or an error",
    )
    allow_unknown: bool = Field(
        default=False, description="ignore columns that the format does not know, with a note"
    )
    characters_per_token: Annotated[float, Field(ge=0.1, le=100)] = Field(
        default=4.0, description="for formats that hold text: there is no tokenizer"
    )
    fallback: Fallback | None = Field(
        default=None, description="a generated workload to run when the file is absent"
    )
    grammars: Grammars | None = Field(
        default=None,
        description="which answers follow a grammar; not those of the fallback",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TraceSpec:
        check_population(self.arrivals, self.concurrency, self.duration_s, self.ramp_s)
        if self.format is not None:
            named(self.format)
        if self.requests is not None and self.sessions is not None:
            raise InputError("requests and sessions exclude each other")
        return self

    def build(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path] = (Path(),),
        context_tokens: int | None = None,
    ) -> BuiltWorkload:
        """The workload; see `spec.WorkloadSpec` for the arguments.

        Raises:
            InputError: the file is absent and there is no fallback, or cannot be read, or lacks
                what the scenario asks of it.
        """
        path = found(self.file, folders)
        if path is None:
            return self._without_file(streams, contents, folders, context_tokens)
        state = path.stat()
        trace = _loaded(path, state.st_mtime_ns, state.st_size, self.format, self._options())
        self._check_limit(trace)
        self._check_times(trace)
        built = Replay(self, trace, streams, contents, folders).built()
        return structured(built, self.grammars, streams, contents)

    def _options(self) -> Options:
        return Options(
            block_size=self.block_size,
            limit=self.requests or self.sessions,
            zero_output=self.zero_output,
            allow_unknown=self.allow_unknown,
            characters_per_token=self.characters_per_token,
        )

    def _check_limit(self, trace: Trace) -> None:
        """Refuse a limit of the wrong kind."""
        if trace.sessions and self.requests is not None:
            raise InputError(
                f"{trace.format} holds sessions: limit sessions, not requests",
                where="workload.requests",
            )
        if not trace.sessions and self.sessions is not None:
            raise InputError(
                f"{trace.format} holds single requests: limit requests, not sessions",
                where="workload.sessions",
            )

    def _check_times(self, trace: Trace) -> None:
        """Refuse what says something of times that this trace does not have, or does not keep."""
        paced = bool(trace.sessions) or self.loop == "closed"
        timed = trace.timed and (self.arrivals is None or self.loop == "closed")
        for key, used, why in (
            ("time_scale", timed, "the trace has no arrival times" if not trace.timed else ""),
            ("think_scale", paced, "requests do not wait for answers; loop: closed lets them"),
            ("think_s", paced, "requests do not wait for answers; loop: closed lets them"),
        ):
            default = type(self).model_fields[key].default
            if not used and getattr(self, key) != default:
                message = f"{key} would do nothing: {why or 'arrivals replace the recorded times'}"
                raise InputError(message, where=f"workload.{key}")

    def _without_file(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path],
        context_tokens: int | None,
    ) -> BuiltWorkload:
        get_it = f"get it from {self.source}" if self.source else ""
        if self.fallback is None:
            raise InputError(f"no file {self.file}", where="workload.file", help=get_it)
        workload = self.fallback.build(streams, contents, folders, context_tokens)
        note = (
            f"trace {self.file} is absent: a generated {self.fallback.kind} workload in its place"
        )
        workload.notes.append(f"{note} ({get_it})" if get_it else note)
        return workload
