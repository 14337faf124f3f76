"""The agent workload in a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ....policies.errors import InputError
from ....sim.state.content import Contents
from ....sim.state.streams import Streams
from ..built import BuiltWorkload
from ..distributions import Distribution, Lognormal, fixed
from ..grammars import Grammars, structured
from ..population import PopulationSpec
from ..shorthand import Few, Share, Tokens
from .loop import Harness
from .parts import (
    AgentTypes,
    CompactionSpec,
    EnvironmentSpec,
    HabitsSpec,
    SandboxSpec,
    SubAgentSpec,
    ToolSpec,
)


class AgentSpec(PopulationSpec):
    """Agents: model call, tool, result appended, next call, until the task is done.

    A prompt is system prompt, tools, developer message, environment, then the history. Every
    random quantity of agent i comes from streams of its own, whatever the timing: policies under
    comparison serve the same agents.
    """

    kind: Literal["agent"]
    agent_types: AgentTypes = Field(default=AgentTypes(), description="kinds of agent")
    system_tokens: Distribution = Field(default=fixed(2500), description="system prompt of a kind")
    tools_tokens: Distribution = Field(default=fixed(6000), description="list of tools of a kind")
    tool_schemas: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=16, description="tools in the list, each an equal part of it"
    )
    developer_tokens: Distribution = Field(
        default=fixed(600), description="developer instructions of a kind"
    )
    environment: EnvironmentSpec = Field(
        default=EnvironmentSpec(), description="each agent's own environment message"
    )
    tasks: Distribution = Field(default=fixed(1), description="user messages in a session")
    think_s: Distribution = Field(
        default=Lognormal(kind="lognormal", median=60.0, sigma=1.0),
        description="seconds from the last answer of a task to the next user message",
    )
    task_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=300.0, sigma=1.0),
        description="tokens of a user message",
    )
    steps: Distribution = Field(
        default=Lognormal(kind="lognormal", median=8.0, sigma=0.7),
        description="model calls for one task; the last one answers, the others call tools",
    )
    reasoning_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=120.0, sigma=1.0),
        description="reasoning at the beginning of every answer; 0 for none",
    )
    answer_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=90.0, sigma=0.8),
        description="the rest of an answer that calls tools",
    )
    final_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=300.0, sigma=0.8),
        description="the rest of the answer that ends a task",
    )
    max_tokens: Annotated[int, Field(ge=1, le=10**8)] | None = Field(
        default=None, description="cap that clients send; what the context has room for if left out"
    )
    grammars: Grammars | None = Field(
        default=None, description="which answers follow a grammar (structured output)"
    )
    history: Literal["whole", "stripped"] = Field(
        default="whole",
        description="stripped: the chat template leaves reasoning out of later prompts",
    )
    drift: Share = Field(
        default=0.0,
        description="share of answers that tokenise otherwise when sent back, from a random place",
    )
    tools: tuple[ToolSpec, ...] = Field(
        default=(ToolSpec(),), min_length=1, max_length=1000, description="the tools to choose from"
    )
    parallel_tools: Distribution = Field(
        default=fixed(1), description="tools that one answer calls side by side"
    )
    cpu_slots: Few = Field(default=64, description="tools that can run at the same time, of all")
    sandbox: SandboxSpec = Field(default=SandboxSpec(), description="where tools run")
    subagents: SubAgentSpec | None = Field(default=None, description="none when left out")
    compaction: CompactionSpec = Field(
        default=CompactionSpec(), description="what happens when the window is nearly full"
    )
    window_tokens: Tokens | None = Field(
        default=None, description="the window that compaction respects; the model's if left out"
    )
    announce_tool_time: bool = Field(
        default=True, description="clients tell the server how long they expect to be away"
    )
    habits: HabitsSpec = Field(default=HabitsSpec(), description="what breaks prefix caches")

    def build(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path] = (Path(),),
        context_tokens: int | None = None,
    ) -> BuiltWorkload:
        """The workload; see `..spec.WorkloadSpec` for the arguments.

        Raises:
            InputError: no window is known and compaction needs one.
        """
        window = self.window_tokens or context_tokens
        if window is None and self.compaction.enabled:
            raise InputError(
                "compaction needs to know the window",
                where="workload.window_tokens",
                help="give window_tokens, or compaction: {enabled: false}",
            )
        harness = Harness(self, streams, contents, window)
        built = BuiltWorkload(
            self.starts(streams, folders, harness.session),
            True,
            None if self.sessions is None else round(self.sessions * self._calls()),
            {"cpu": self.cpu_slots},
        )
        return structured(built, self.grammars, streams, contents)

    def _calls(self) -> float:
        """Model calls of a session, on average, compaction aside."""
        calls = max(self.tasks.expected(), 1) * max(self.steps.expected(), 1)
        if self.subagents is None:
            return calls
        sub = self.subagents
        return calls * (1 + sub.share * sub.at_once.expected() * max(sub.steps.expected(), 1))
