"""What an agent sends: the texts of its kind, its environment, its history, and bad habits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ....policies.types import Segment
from ....sim.state.content import Contents
from .parts import EnvironmentSpec, HabitsSpec


@dataclass(frozen=True, slots=True)
class Texts:
    """The shared texts of one kind of agent (or sub-agent), in tokens; 0 leaves one out.

    Attributes:
        key: names the kind.
        schemas: the list of tools, tool by tool.
    """

    key: tuple[str, int]
    system: int
    schemas: tuple[int, ...]
    developer: int


class Prompt:
    """The prompt of one agent as it grows.

    `before_call` lets the habits act, `segments` says what is sent. Labels are what the report
    names: system, tools, developer, environment, user, assistant, tool result, subagent result,
    summary.

    Attributes:
        tokens: its length now.
    """

    def __init__(
        self,
        contents: Contents,
        texts: Texts,
        environment: EnvironmentSpec,
        habits: HabitsSpec,
        owner: int,
        rng: np.random.Generator,
    ) -> None:
        self._contents, self._texts, self._owner, self._rng = contents, texts, owner, rng
        self._environment, self._habits = environment, habits
        self._order: list[int] = list(range(len(texts.schemas)))
        self._added = self._version = self._clock = 0
        self._history: list[Segment] = []
        self._head = self._opening()
        self.tokens = sum(part.tokens for part in self._head)

    def before_call(self, turn: int) -> None:
        """Let chance and habits change the prompt. Draws the same numbers whatever the habits."""
        reorder, grow, change = self._rng.random(3).tolist()
        permutation = self._rng.permutation(len(self._order))
        habits, before = self._habits, (self._order, self._added, self._version, self._clock)
        if reorder < habits.tools_reordered:
            self._order = permutation.tolist()
        if grow < habits.tool_list_changes:
            self._added += 1
        if habits.timestamp == "call":
            self._clock = turn
        if change < self._environment.changes:
            self._version += 1
            if not habits.environment_edited_in_place:
                self.add("environment", self._environment.update_tokens, self._version)
        if (self._order, self._added, self._version, self._clock) != before:
            self.tokens -= sum(part.tokens for part in self._head)
            self._head = self._opening()
            self.tokens += sum(part.tokens for part in self._head)

    def segments(self) -> tuple[Segment, ...]:
        """What is sent now."""
        return (*self._head, *self._history)

    def __len__(self) -> int:
        """Messages in the history."""
        return len(self._history)

    def add(self, label: str, tokens: int, *key: str | int) -> None:
        """Append a text of its own to the history; *key* names it within the agent."""
        self.quote(self._contents.id("said", label, self._owner, *key), 0, tokens, label)

    def quote(self, content: int, first: int, last: int, label: str) -> None:
        """Append tokens first..last-1 of a text, an answer's say, if there are any."""
        if last > first:
            self._history.append(Segment(content, first, last - first, label))
            self.tokens += last - first

    def summarise(self, content: int, tokens: int, keep: int) -> None:
        """Replace the history, but for the last *keep* messages, by a summary."""
        kept = self._history[len(self) - keep :] if keep else []
        self.tokens -= sum(part.tokens for part in self._history)
        self._history = []
        self.quote(content, 0, tokens, "summary")
        self._history += kept
        self.tokens += sum(part.tokens for part in kept)

    def _opening(self) -> tuple[Segment, ...]:
        """Everything before the history."""
        developer = self._contents.id("developer", *self._texts.key)
        edited = self._version if self._habits.environment_edited_in_place else 0
        where = self._contents.id("environment", self._owner, edited)
        parts = (
            *self._system(),
            *self._tools(),
            Segment(developer, 0, self._texts.developer, "developer"),
            Segment(where, 0, self._environment.tokens, "environment"),
        )
        return tuple(part for part in parts if part.tokens)

    def _system(self) -> list[Segment]:
        total, habits = self._texts.system, self._habits
        text = self._contents.id("system", *self._texts.key)
        if habits.timestamp == "none":
            return [Segment(text, 0, total, "system")]
        at = round(habits.timestamp_at * total)
        stamp = self._contents.id("timestamp", self._owner, self._clock)
        return [
            Segment(text, 0, at, "system"),
            Segment(stamp, 0, habits.timestamp_tokens, "system"),
            Segment(text, at, total - at, "system"),
        ]

    def _tools(self) -> list[Segment]:
        """The list as one text; tools that do not follow their neighbour are cut out of it."""
        key, sizes = self._texts.key, self._texts.schemas
        text, starts = self._contents.id("tools", *key), [0, *accumulate(sizes)]
        listed: list[Segment] = []
        for i in self._order:
            last = listed[-1] if listed else None
            if last is not None and last.offset + last.tokens == starts[i]:
                listed[-1] = last._replace(tokens=last.tokens + sizes[i])
            else:
                listed.append(Segment(text, starts[i], sizes[i], "tools"))
        for i in range(self._added):
            added = self._contents.id("added tool", *key, i)
            listed.append(Segment(added, 0, max(sizes, default=1), "tools"))
        return listed
