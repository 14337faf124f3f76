"""The parts of an agent in a scenario: its tools, sandbox, sub-agents, memory and habits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...schema.base import Spec
from ..distributions import Distribution, Lognormal, fixed
from ..popularity import Popularity
from ..shorthand import NotNegative, Positive, Share, Tokens

DEFAULT_TOOL_S = Lognormal(kind="lognormal", median=1.0, sigma=1.2)
DEFAULT_RESULT = Lognormal(kind="lognormal", median=350.0, sigma=1.3, max=20_000.0)


class ToolSpec(Spec):
    """One tool: how long it runs, what it returns, how it goes wrong."""

    name: str = Field(default="tool", description="for the reader")
    weight: Positive = Field(default=1.0, description="how often it is chosen, beside the others")
    latency_s: Distribution = Field(default=DEFAULT_TOOL_S, description="seconds of one attempt")
    result_tokens: Distribution = Field(
        default=DEFAULT_RESULT, description="tokens of its result in the next prompt"
    )
    uses_cpu: bool = Field(
        default=True, description="holds one of cpu_slots (and needs the sandbox) while it runs"
    )
    timeout_s: Positive = Field(
        default=600.0, description="an attempt is cut off after this long; it is not retried"
    )
    failure: Share = Field(default=0.0, description="share of attempts that fail")
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0, description="attempts after a failed one, by the harness, unseen by the model"
    )
    retry_wait_s: NotNegative = Field(default=1.0, description="pause before each of them, seconds")
    error_tokens: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=60, description="tokens of the result when it failed or was cut off"
    )

    def expected_s(self) -> float:
        """Mean time of a call: attempts, each at most its timeout, and the pauses between."""
        attempts = sum(self.failure**i for i in range(self.retries + 1))
        once = min(self.latency_s.expected(), self.timeout_s)
        return attempts * once + (attempts - 1) * self.retry_wait_s


class SandboxSpec(Spec):
    """Where tools run; started once a session, before the first tool that needs it."""

    start_s: Distribution = Field(
        default=fixed(0), description="seconds to start it, holding a CPU slot"
    )


class SubAgentSpec(Spec):
    """Agents that an agent starts for a part of its task; it waits, and reads their last answer."""

    share: Share = Field(
        default=0.05, description="share of steps that start sub-agents instead of tools"
    )
    at_once: Distribution = Field(default=fixed(1), description="how many run side by side")
    depth: Annotated[int, Field(ge=1, le=2)] = Field(
        default=1, description="2: sub-agents may start sub-agents"
    )
    system_tokens: Tokens = Field(default=1200, description="their own system prompt")
    tools_tokens: Tokens = Field(default=3000, description="their own list of tools")
    task_tokens: Distribution = Field(default=fixed(300), description="what they are asked")
    steps: Distribution = Field(
        default=Lognormal(kind="lognormal", median=6.0, sigma=0.6),
        description="model calls of each",
    )
    final_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=600.0, sigma=0.6),
        description="tokens of the report that the parent reads",
    )


class CompactionSpec(Spec):
    """Replace the history by a summary that the model writes, when the window is nearly full."""

    enabled: bool = Field(
        default=True, description="false: calls are made until the engine refuses one"
    )
    at: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.85, description="when prompt and expected answer pass this share of the window"
    )
    instruction_tokens: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=200, description="the request to summarise, at the end of the prompt"
    )
    summary_tokens: Distribution = Field(default=fixed(1500), description="tokens of the summary")
    keep_last: Annotated[int, Field(ge=0, le=10**6)] = Field(
        default=0, description="messages at the end of the history that stay as they are"
    )


class EnvironmentSpec(Spec):
    """The message that tells an agent where it is: folder, open files, date, git status."""

    tokens: Tokens = Field(default=400, description="its length at the start")
    changes: Share = Field(default=0.0, description="share of calls before which it has changed")
    update_tokens: Annotated[int, Field(ge=1, le=10**6)] = Field(
        default=80, description="length of the note that says so, where it is appended"
    )


class SwitchSpec(Spec):
    """Calls that go to another model; KV is never shared between models."""

    share: Share = Field(default=0.0, description="share of calls")
    to: str = Field(
        default="",
        description="the other model's name; empty: the same replicas serve it, its KV apart",
    )


class HabitsSpec(Spec):
    """What clients do that breaks prefix caches. All off: prompts only ever grow."""

    tools_reordered: Share = Field(
        default=0.0, description="share of calls that list the tools in a fresh random order"
    )
    tool_list_changes: Share = Field(
        default=0.0, description="share of calls before which one more tool joins the list for good"
    )
    environment_edited_in_place: bool = Field(
        default=False,
        description="a changed environment replaces the old message instead of following it",
    )
    model_switched: SwitchSpec = Field(
        default=SwitchSpec(), description="calls that go to another model"
    )
    timestamp: Literal["none", "session", "call"] = Field(
        default="none", description="a clock in the system prompt, read once a session or each call"
    )
    timestamp_at: Share = Field(
        default=0.0, description="where in the system prompt it stands: 0 first, 1 last"
    )
    timestamp_tokens: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=16, description="its length"
    )


class AgentTypes(Popularity):
    """Kinds of agent; agents of one kind share system prompt, tools and developer message."""
