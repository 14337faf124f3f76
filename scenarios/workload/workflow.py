"""Workflows: agents with prompts of their own, called in a known order, round after round."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from ...policies.errors import InputError
from ...policies.types import Segment, WorkflowHint
from ...sim.state.content import Contents
from ...sim.state.session import Call, CallResult, Effect, Session, Sleep, Together
from ...sim.state.streams import Streams
from .built import BuiltWorkload, picoseconds
from .distributions import Distribution, Lognormal, fixed, tokens
from .grammars import Grammars, structured
from .popularity import Popularity
from .population import PopulationSpec
from .shorthand import Share

Agent = Annotated[int, Field(ge=0, le=10**4)]
Stage: TypeAlias = tuple[Agent, ...]


class WorkflowTypes(Popularity):
    """Applications; each has agents of its own."""


class WorkflowSpec(PopulationSpec):
    """Multi-agent workflows; a failed call ends the workflow."""

    kind: Literal["workflow"]
    workflow_types: WorkflowTypes = Field(
        default=WorkflowTypes(), description="applications; each has agents of its own"
    )
    agents: Annotated[int, Field(ge=1, le=10**4)] = Field(
        default=4, description="agents of an application"
    )
    order: tuple[Agent | Stage, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=10_000,
        description="who is called when, by number from 0; those in a list side by side; one after "
        "the other if left out",
    )
    rounds: Distribution = Field(
        default=fixed(3), description="how often the order is gone through"
    )
    ends_early: Share = Field(
        default=0.0,
        description="chance after each round that the workflow is done; its frontend does not know",
    )
    shared_tokens: Distribution = Field(
        default=fixed(0),
        description="first part of an application's fixed prompts, the same in all",
    )
    fixed_tokens: Distribution = Field(
        default=fixed(3000), description="the rest of an agent's fixed prompt, its own"
    )
    task_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=200.0, sigma=0.8),
        description="what the workflow is about, after the fixed prompt of every call",
    )
    reads: Literal["last", "all"] = Field(
        default="last",
        description="last: a call is told the answers of the stage before; all: all answers so far",
    )
    output_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=150.0, sigma=0.6),
        description="tokens of an answer",
    )
    pause_s: Distribution = Field(
        default=fixed(0), description="seconds between a stage and the next: tools, code"
    )
    max_tokens: Annotated[int, Field(ge=1, le=10**8)] | None = Field(
        default=None, description="cap that clients send; what the context has room for if left out"
    )
    grammars: Grammars | None = Field(
        default=None, description="which answers follow a grammar (structured output)"
    )
    announce_steps: bool = Field(
        default=True, description="frontends tell the server who runs when (`workflow-aware`)"
    )

    @model_validator(mode="after")
    def _known(self) -> WorkflowSpec:
        for stage in self.stages():
            for agent in stage:
                if agent >= self.agents:
                    raise InputError(
                        f"order calls agent {agent}; there are {self.agents}, from 0",
                        help="give more agents, or another order",
                    )
            if len(set(stage)) < len(stage) or not stage:
                raise InputError(f"a stage of order ({list(stage)}) must name different agents")
        return self

    def stages(self) -> tuple[Stage, ...]:
        """Who is called, stage by stage, in one round."""
        order = tuple(range(self.agents)) if self.order is None else self.order
        return tuple(stage if isinstance(stage, tuple) else (stage,) for stage in order)

    def build(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path] = (Path(),),
        context_tokens: int | None = None,
    ) -> BuiltWorkload:
        """The workload; see `spec.WorkloadSpec` for the arguments.

        A workflow whose next call no longer fits *context_tokens* ends there.
        """
        frontend = _Frontend(self, streams, contents, context_tokens)
        expected = None
        if self.sessions is not None:
            calls = sum(map(len, self.stages())) * max(self.rounds.expected(), 1)
            expected = round(self.sessions * calls)
        built = BuiltWorkload(self.starts(streams, folders, frontend.session), True, expected)
        return structured(built, self.grammars, streams, contents)


class _Frontend:
    """Runs workflows; holds what they have in common."""

    def __init__(
        self,
        spec: WorkflowSpec,
        streams: Streams,
        contents: Contents,
        context_tokens: int | None,
    ) -> None:
        self._spec, self._streams, self._contents = spec, streams, contents
        self._window = context_tokens
        self._stages = spec.stages()
        self._fixed = [self._prompts(number) for number in range(spec.workflow_types.count)]

    def _prompts(self, number: int) -> list[tuple[Segment, ...]]:
        """The fixed prompts of an application, agent by agent."""
        rng = self._streams.get("workflow type", number)
        shared = tokens(self._spec.shared_tokens, rng, least=0)
        opening = Segment(self._contents.id("shared", number), 0, shared, "system")
        prompts = []
        for agent in range(self._spec.agents):
            own = tokens(self._spec.fixed_tokens, rng, least=0)
            text = Segment(self._contents.id("agent", number, agent), 0, own, "agent")
            prompts.append(tuple(part for part in (opening, text) if part.tokens))
        return prompts

    def session(self, number: int) -> Session:
        """Workflow *number*, from its first call to its last."""
        spec, rng = self._spec, self._streams.get("workflow", number)
        which = spec.workflow_types.pick(rng)
        rounds = max(1, round(spec.rounds.draw(rng)))
        task = tokens(spec.task_tokens, rng)
        said = [Segment(self._contents.id("task", number), 0, task, "user")]
        turn = 0
        for at in range(rounds * len(self._stages)):
            if at % len(self._stages) == 0 and at and rng.random() < spec.ends_early:
                return None
            if at:
                yield Sleep(picoseconds(spec.pause_s.draw(rng)))
            calls = self._calls(number, which, at, rounds, turn, tuple(said), rng)
            turn += len(calls)
            answers = yield from _asked(calls)
            if answers is None:
                return None
            said = [*(said[:1] if spec.reads == "last" else said), *answers]
        return None

    def _calls(
        self,
        number: int,
        which: int,
        at: int,
        rounds: int,
        turn: int,
        said: tuple[Segment, ...],
        rng: np.random.Generator,
    ) -> list[Call]:
        """The calls of stage *at*, counted over all rounds; none when one does not fit."""
        calls: list[Call] = []
        for agent in self._stages[at % len(self._stages)]:
            fixed_prompt = self._fixed[which][agent]
            prompt = (*fixed_prompt, *said)
            answer = tokens(self._spec.output_tokens, rng)
            if self._window is not None and _length(prompt) + answer > self._window:
                return []
            hint = WorkflowHint(
                number,
                f"{which}/{agent}",
                _length(fixed_prompt),
                self._steps(which, at, agent, rounds),
            )
            calls.append(
                Call(
                    prompt=prompt,
                    output_tokens=answer,
                    output_content=self._contents.id("answer", number, turn + len(calls)),
                    max_tokens=self._spec.max_tokens,
                    session=number,
                    turn=turn + len(calls),
                    tenant=f"type-{which}",
                    kind=f"agent-{agent}",
                    workflow=hint if self._spec.announce_steps else None,
                )
            )
        return calls

    def _steps(self, which: int, at: int, caller: int, rounds: int) -> tuple[tuple[str, int], ...]:
        """When agents run next, as far as the frontend knows; `WorkflowHint.steps`.

        Those that stand behind the caller in its stage are called right after it.
        """
        stages, size = self._stages, len(self._stages)
        here = stages[at % size]
        found = dict.fromkeys(here[here.index(caller) + 1 :], 0)
        for ahead in range(1, min(size, rounds * size - 1 - at) + 1):
            for agent in stages[(at + ahead) % size]:
                found.setdefault(agent, ahead)
        return tuple((f"{which}/{agent}", ahead) for agent, ahead in found.items())


def _asked(calls: list[Call]) -> Generator[Effect, object, list[Segment] | None]:
    """Make the calls side by side. Returns the answers, or None when one failed or none is made."""
    if len(calls) == 1:
        results: object = [(yield calls[0])]
    else:
        results = yield Together(tuple(_one(call) for call in calls))
    assert isinstance(results, list | tuple)
    answers = []
    for call, result in zip(calls, results, strict=True):
        assert isinstance(result, CallResult)
        if not result.ok:
            return None
        if result.output_tokens:
            answers.append(Segment(call.output_content, 0, result.output_tokens, "assistant"))
    return answers if calls else None


def _one(call: Call) -> Session:
    return (yield call)


def _length(prompt: Sequence[Segment]) -> int:
    return sum(part.tokens for part in prompt)
