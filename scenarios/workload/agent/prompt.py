"""What an agent sends: the texts of its kind, its environment, its history, and bad habits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....policies.types import Segment
from ....sim.state.content import Contents
from .parts import EnvironmentSpec, HabitsSpec


@dataclass(frozen=True, slots=True)
class Texts:
    """The shared texts of one kind of agent (or sub-agent), in tokens; 0 leaves one out."""

    key: tuple[str, int]
    system: int
    schemas: tuple[int, ...]
    developer: int


@dataclass(slots=True)
class Prompt:
    """The prompt of one agent as it grows.

    `before_call` lets the habits act, `segments` says what is sent. Labels are what the report
    names: system, tools, developer, environment, user, assistant, tool result, subagent result,
    summary.
    """

    contents: Contents
    texts: Texts
    environment: EnvironmentSpec
    habits: HabitsSpec
    owner: int
    rng: np.random.Generator
    history: list[Segment] = field(default_factory=list)
    _order: list[int] = field(default_factory=list)
    _added: int = 0
    _version: int = 0
    _clock: int = 0

    def before_call(self, turn: int) -> None:
        """Let chance and habits change the prompt. Draws the same numbers whatever the habits."""
        reorder, grow, change = self.rng.random(3)
        permutation = self.rng.permutation(len(self.texts.schemas))
        if reorder < self.habits.tools_reordered:
            self._order = permutation.tolist()
        if grow < self.habits.tool_list_changes:
            self._added += 1
        if self.habits.timestamp == "call":
            self._clock = turn
        if change < self.environment.changes:
            self._version += 1
            if not self.habits.environment_edited_in_place:
                update = self.contents.id("environment update", self.owner, self._version)
                self.history.append(
                    Segment(update, 0, self.environment.update_tokens, "environment")
                )

    def segments(self) -> tuple[Segment, ...]:
        """What is sent now."""
        return (*self._system(), *self._tools(), *self._own(), *self.history)

    @property
    def tokens(self) -> int:
        """Its length now."""
        return sum(part.tokens for part in self.segments())

    def add(self, label: str, tokens: int, *key: str | int) -> None:
        """Append a text of its own to the history; *key* names it within the agent."""
        if tokens:
            content = self.contents.id(label, self.owner, *key)
            self.history.append(Segment(content, 0, tokens, label))

    def quote(self, content: int, first: int, last: int, label: str) -> None:
        """Append tokens first..last-1 of an answer, which are known to the cache."""
        if last > first:
            self.history.append(Segment(content, first, last - first, label))

    def _system(self) -> list[Segment]:
        total = self.texts.system
        text = self.contents.id("system", *self.texts.key)
        clock = self.habits
        if clock.timestamp == "none":
            return _parts(Segment(text, 0, total, "system"))
        at = round(clock.timestamp_at * total)
        stamp = self.contents.id("timestamp", self.owner, self._clock)
        return _parts(
            Segment(text, 0, at, "system"),
            Segment(stamp, 0, clock.timestamp_tokens, "system"),
            Segment(text, at, total - at, "system"),
        )

    def _tools(self) -> list[Segment]:
        key, sizes = self.texts.key, self.texts.schemas
        order = self._order or range(len(sizes))
        listed = [Segment(self.contents.id("tool", *key, i), 0, sizes[i], "tools") for i in order]
        for i in range(self._added):
            added = self.contents.id("added tool", *key, i)
            listed.append(Segment(added, 0, max(sizes, default=1), "tools"))
        return _parts(*listed)

    def _own(self) -> list[Segment]:
        developer = self.contents.id("developer", *self.texts.key)
        edited = self._version if self.habits.environment_edited_in_place else 0
        where = self.contents.id("environment", self.owner, edited)
        return _parts(
            Segment(developer, 0, self.texts.developer, "developer"),
            Segment(where, 0, self.environment.tokens, "environment"),
        )


def _parts(*segments: Segment) -> list[Segment]:
    """Those that are not empty."""
    return [segment for segment in segments if segment.tokens]
