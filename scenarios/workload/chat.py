"""Chat: people who read the answer, think, and ask on; the conversation is sent whole each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ...policies.types import Segment
from ...sim.state.content import Contents
from ...sim.state.session import Call, CallResult, Session, Sleep
from ...sim.state.streams import Streams
from .built import BuiltWorkload, picoseconds
from .distributions import Distribution, Geometric, Lognormal, fixed, tokens
from .grammars import Grammars, structured
from .population import PopulationSpec
from .texts import SharedText


class ChatSpec(PopulationSpec):
    """Multi-turn conversations with think time; a failed call ends the conversation."""

    kind: Literal["chat"]
    turns: Distribution = Field(
        default=Geometric(kind="geometric", mean=4.0), description="questions in a conversation"
    )
    think_s: Distribution = Field(
        default=Lognormal(kind="lognormal", median=20.0, sigma=1.0),
        description="seconds between an answer and the next question",
    )
    system: SharedText = Field(
        default=SharedText(tokens=fixed(500)), description="system prompts: one a tenant"
    )
    prompt_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=60.0, sigma=1.0),
        description="tokens of a question",
    )
    output_tokens: Distribution = Field(
        default=Lognormal(kind="lognormal", median=250.0, sigma=0.8),
        description="tokens of an answer",
    )
    max_tokens: Annotated[int, Field(ge=1, le=10**8)] | None = Field(
        default=None, description="cap that clients send; what the context has room for if left out"
    )
    grammars: Grammars | None = Field(
        default=None, description="which answers follow a grammar (structured output)"
    )

    def build(
        self,
        streams: Streams,
        contents: Contents,
        folders: Sequence[Path] = (Path(),),
        context_tokens: int | None = None,
    ) -> BuiltWorkload:
        """The workload; see `spec.WorkloadSpec` for the arguments.

        A conversation that no longer fits *context_tokens* ends there.
        """
        rng = streams.get("chat", "system sizes")
        sizes = [tokens(self.system.tokens, rng) for _ in range(self.system.count)]
        away_s = self.think_s.expected()

        def session(number: int) -> Session:
            return _conversation(self, number, streams, contents, sizes, away_s, context_tokens)

        expected = None
        if self.sessions is not None:
            expected = round(self.sessions * max(self.turns.expected(), 1))
        built = BuiltWorkload(self.starts(streams, folders, session), True, expected)
        return structured(built, self.grammars, streams, contents)


def _conversation(
    spec: ChatSpec,
    number: int,
    streams: Streams,
    contents: Contents,
    sizes: list[int],
    away_s: float,
    context_tokens: int | None,
) -> Session:
    rng = streams.get("chat", number)
    tenant = spec.system.pick(rng)
    prompt = [Segment(contents.id("system", tenant), 0, sizes[tenant], "system")]
    for turn in range(max(1, round(spec.turns.draw(rng)))):
        think_s, question = spec.think_s.draw(rng), tokens(spec.prompt_tokens, rng)
        answer = tokens(spec.output_tokens, rng)
        if turn:
            total = sum(part.tokens for part in prompt) + question + answer
            if context_tokens is not None and total > context_tokens:
                return None
            yield Sleep(picoseconds(think_s))
        prompt.append(Segment(contents.id("question", number, turn), 0, question, "user"))
        content = contents.id("answer", number, turn)
        result = yield Call(
            prompt=tuple(prompt),
            output_tokens=answer,
            output_content=content,
            max_tokens=spec.max_tokens,
            session=number,
            turn=turn,
            tenant=f"tenant-{tenant}",
            kind="chat",
            tool_time_s=away_s,
        )
        assert isinstance(result, CallResult)
        if not result.ok:
            return None
        if result.output_tokens:
            prompt.append(Segment(content, 0, result.output_tokens, "assistant"))
    return None
