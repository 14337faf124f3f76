"""The agent loop: call the model, run its tools, append the results, call again."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....policies.types import Segment
from ....sim.state.content import Contents
from ....sim.state.session import Call, CallResult, Effect, Session, Sleep, Together, Use
from ....sim.state.streams import Streams
from ..built import picoseconds
from ..distributions import Distribution, tokens
from .prompt import Prompt, Texts
from .tools import CPU, Toolbox, ToolCall

if TYPE_CHECKING:
    from .spec import AgentSpec

#: room in a session id for the sub-agents of one agent; ids stay below 2**62
MOST_SUBAGENTS = 1 << 13
_ROOT_BITS = 32
Run = Generator[Effect, object, bool]


@dataclass(frozen=True, slots=True)
class Step:
    """What one model call will say and lead to, drawn before it is made."""

    reasoning: int
    visible: int
    tools: tuple[ToolCall, ...]
    subagents: int

    @property
    def answer(self) -> int:
        """Tokens of the answer."""
        return self.reasoning + self.visible


@dataclass(frozen=True, slots=True)
class Role:
    """How an agent differs from a sub-agent."""

    kind: str
    depth: int
    tasks: int
    steps: Distribution
    task_tokens: Distribution
    final_tokens: Distribution
    texts: Texts


class Harness:
    """Starts agents; holds what they have in common."""

    def __init__(
        self, spec: AgentSpec, streams: Streams, contents: Contents, window: int | None
    ) -> None:
        self.spec, self.streams, self.contents, self.window = spec, streams, contents, window
        self.toolbox = Toolbox(spec.tools)
        self.texts = [self._texts(number) for number in range(spec.agent_types.count)]

    def session(self, number: int) -> Session:
        """Agent *number*, from its first task to its last answer."""
        rng = self.streams.get("agent", number, "kind")
        which = self.spec.agent_types.pick(rng)
        tasks = max(1, round(self.spec.tasks.draw(rng)))
        spec = self.spec
        role = Role(
            "agent",
            0,
            tasks,
            spec.steps,
            spec.task_tokens,
            spec.final_tokens,
            self.texts[which],
        )
        return Agent(self, role, number, f"type-{which}").run()

    def subagent(self, parent: Agent, child: int) -> Agent:
        """Sub-agent number *child* of *parent*."""
        sub = self.spec.subagents
        assert sub is not None
        depth = parent.role.depth + 1
        count = self.spec.tool_schemas
        texts = Texts(("subagent", depth), sub.system_tokens, _split(sub.tools_tokens, count), 0)
        role = Role("subagent", depth, 1, sub.steps, sub.task_tokens, sub.final_tokens, texts)
        shift = _ROOT_BITS if depth == 1 else _ROOT_BITS + 13
        return Agent(self, role, parent.id + ((child + 1) << shift), parent.tenant)

    def _texts(self, number: int) -> Texts:
        rng = self.streams.get("agent kind", number)
        spec = self.spec
        system = tokens(spec.system_tokens, rng, least=0)
        tools = tokens(spec.tools_tokens, rng, least=0)
        developer = tokens(spec.developer_tokens, rng, least=0)
        return Texts(("agent", number), system, _split(tools, spec.tool_schemas), developer)


class Agent:
    """One agent or sub-agent at work."""

    def __init__(self, harness: Harness, role: Role, number: int, tenant: str) -> None:
        self.role, self.id, self.tenant = role, number, tenant
        self._harness, self._spec = harness, harness.spec
        streams = harness.streams
        self._rng = streams.get("agent", number, "steps")
        self._luck = streams.get("agent", number, "drift and switches")
        self._summaries = streams.get("agent", number, "summaries")
        self._summary = tokens(self._spec.compaction.summary_tokens, self._summaries)
        self._prompt = Prompt(
            harness.contents,
            role.texts,
            self._spec.environment,
            self._spec.habits,
            number,
            streams.get("agent", number, "habits"),
        )
        self._turn = 0
        self._children = 0
        self._sandboxed = False
        self._report: tuple[int, int, int] | None = None

    def run(self) -> Session:
        """Do every task. Returns (content, first, last token) of the last answer, or None."""
        for task in range(self.role.tasks):
            if task:
                yield Sleep(picoseconds(self._spec.think_s.draw(self._rng)))
            said = tokens(self.role.task_tokens, self._rng)
            self._prompt.add("user", self._fitting(said), task)
            if not (yield from self._task()):
                return None
        return self._report

    def _task(self) -> Run:
        steps = max(1, round(self.role.steps.draw(self._rng)))
        for left in reversed(range(steps)):
            step = self._draw(last=left == 0)
            self._prompt.before_call(self._turn)
            if not (yield from self._make_room(step)) or not (yield from self._ask(step)):
                return False
            if step.subagents:
                yield from self._delegate(step.subagents)
            elif step.tools:
                yield from self._use(step.tools)
        return True

    def _draw(self, *, last: bool) -> Step:
        """Everything that chance decides about a step, from the agent's own stream."""
        spec, rng, sub = self._spec, self._rng, self._spec.subagents
        reasoning = tokens(spec.reasoning_tokens, rng, least=0)
        visible = tokens(self.role.final_tokens if last else spec.answer_tokens, rng)
        if last:
            return Step(reasoning, visible, (), 0)
        if sub is not None and self.role.depth < sub.depth and rng.random() < sub.share:
            room = MOST_SUBAGENTS - 2 - self._children
            wanted = max(1, round(sub.at_once.draw(rng)))
            if room > 0:
                return Step(reasoning, visible, (), min(wanted, room))
        count = min(max(1, round(spec.parallel_tools.draw(rng))), 1000)
        calls = tuple(self._harness.toolbox.draw(rng) for _ in range(count))
        return Step(reasoning, visible, calls, 0)

    def _ask(self, step: Step) -> Run:
        """Call the model and remember what it said."""
        u_switch, u_drift, u_where = self._luck.random(3)
        switch = self._spec.habits.model_switched
        away = u_switch < switch.share
        content = self._harness.contents.id("answer", self.id, self._turn)
        result = yield from self._call(
            self._prompt.segments(),
            step.answer,
            content,
            model=switch.to if away else "",
            salt="another model" if away and not switch.to else "",
            tool_time_s=self._away_s(step),
        )
        if result is None:
            return False
        first = min(step.reasoning, result) if self._spec.history == "stripped" else 0
        self._report = (content, min(step.reasoning, result), result)
        if u_drift < self._spec.drift:
            cut = first + int(u_where * (result - first))
            self._prompt.quote(content, first, cut, "assistant")
            other = self._harness.contents.id("drifted answer", self.id, self._turn)
            self._prompt.quote(other, cut, result, "assistant")
        else:
            self._prompt.quote(content, first, result, "assistant")
        return True

    def _call(
        self,
        prompt: tuple[Segment, ...],
        answer: int,
        content: int,
        *,
        kind: str = "",
        model: str = "",
        salt: str = "",
        tool_time_s: float = -1.0,
    ) -> Generator[Effect, object, int | None]:
        """One call. Returns the tokens answered, None when it failed."""
        result = yield Call(
            prompt=prompt,
            output_tokens=answer,
            output_content=content,
            max_tokens=self._spec.max_tokens,
            session=self.id,
            turn=self._turn,
            tenant=self.tenant,
            kind=kind or self.role.kind,
            model=model,
            salt=salt,
            tool_time_s=tool_time_s,
        )
        assert isinstance(result, CallResult)
        self._turn += 1
        return result.output_tokens if result.ok else None

    def _away_s(self, step: Step) -> float:
        """What the client says of its absence: tools' mean time; nothing after a last answer."""
        toolbox, sub = self._harness.toolbox, self._spec.subagents
        if not self._spec.announce_tool_time:
            return -1.0
        if step.subagents and sub is not None:
            return toolbox.mean_s * sub.steps.expected()
        return max((call.expected_s for call in step.tools), default=-1.0)

    def _use(self, calls: tuple[ToolCall, ...]) -> Generator[Effect, object, None]:
        """Run tools side by side; their results follow in the order of the calls."""
        if not self._sandboxed and any(call.tool.uses_cpu for call in calls):
            self._sandboxed = True
            start_s = self._spec.sandbox.start_s.draw(self._rng)
            if start_s > 0:
                yield Use(CPU, picoseconds(start_s))
        if len(calls) == 1:
            results: object = [(yield from calls[0].run())]
        else:
            results = yield Together(tuple(call.run() for call in calls))
        assert isinstance(results, list | tuple)
        for i, told in enumerate(results):
            self._prompt.add("tool result", self._fitting(told), self._turn, i)

    def _delegate(self, count: int) -> Generator[Effect, object, None]:
        """Run sub-agents side by side and read their last answers."""
        children = range(self._children, self._children + count)
        self._children += count
        agents = tuple(self._harness.subagent(self, child).run() for child in children)
        reports = yield Together(agents)
        assert isinstance(reports, list | tuple)
        for i, report in enumerate(reports):
            if report is None:
                self._prompt.add("tool result", self._fitting(60), self._turn, i)
            else:
                content, first, last = report
                last = first + self._fitting(last - first)
                self._prompt.quote(content, first, last, "subagent result")

    def _reserve(self) -> int:
        return self._spec.compaction.instruction_tokens + self._summary

    def _fitting(self, count: int) -> int:
        """*count* tokens, or as many as leave room to summarise (the harness cuts the rest)."""
        window = self._harness.window
        if window is None or not self._spec.compaction.enabled:
            return count
        return max(1, min(count, window - self._prompt.tokens - self._reserve()))

    def _make_room(self, step: Step) -> Run:
        """Have the history summarised when the window is nearly full."""
        spec, window, prompt = self._spec.compaction, self._harness.window, self._prompt
        if window is None or not spec.enabled:
            return True
        if prompt.tokens + step.answer <= spec.at * window:
            return True
        if len(prompt) - spec.keep_last < 2:
            return True  # nothing that a summary would make shorter
        contents = self._harness.contents
        request = Segment(contents.id("summarise"), 0, spec.instruction_tokens, "user")
        content = contents.id("summary", self.id, self._turn)
        written = yield from self._call(
            (*prompt.segments(), request),
            self._summary,
            content,
            kind="compaction",
            tool_time_s=0.0,
        )
        if written is None:
            return False
        self._summary = tokens(spec.summary_tokens, self._summaries)
        prompt.summarise(content, written, spec.keep_last)
        return True


def _split(total: int, parts: int) -> tuple[int, ...]:
    """*total* in parts that differ by at most one, empty ones left out."""
    return tuple(
        size for i in range(parts) if (size := total * (i + 1) // parts - total * i // parts)
    )
