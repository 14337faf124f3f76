"""Tool calls: drawn before they run, so that their timing cannot change what is drawn."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from ....sim.state.session import Effect, Sleep, Use
from ..built import picoseconds
from ..distributions import tokens
from .parts import ToolSpec

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of one tool, with everything that chance decides.

    Attributes:
        expected_s: how long a client who knows the tool, not its luck, expects to be away.
        attempts: (seconds, whether it fails), as many as there may be retries and one more.
    """

    tool: ToolSpec
    expected_s: float
    attempts: tuple[tuple[float, bool], ...]
    result_tokens: int

    def run(self) -> Generator[Effect, object, int]:
        """Run it, with retries. Returns the tokens of what the model is told."""
        tool = self.tool
        for i, (seconds, fails) in enumerate(self.attempts):
            if i:
                yield Sleep(picoseconds(tool.retry_wait_s))
            if not (yield from self._attempt(seconds)):
                return tool.error_tokens
            if not fails:
                return self.result_tokens
        return tool.error_tokens

    def _attempt(self, seconds: float) -> Generator[Effect, object, bool]:
        """One attempt. Returns False when it was cut off."""
        tool = self.tool
        if tool.uses_cpu:
            used = yield Use(CPU, picoseconds(seconds), picoseconds(tool.timeout_s))
            return bool(used)
        yield Sleep(picoseconds(min(seconds, tool.timeout_s)))
        return seconds <= tool.timeout_s


class Toolbox:
    """Draws tool calls."""

    def __init__(self, tools: tuple[ToolSpec, ...]) -> None:
        self._tools = tools
        self._expected_s = [tool.expected_s() for tool in tools]
        weights = np.array([tool.weight for tool in tools])
        self._cumulative = np.cumsum(weights)
        self.mean_s = float(np.average(self._expected_s, weights=weights))

    def draw(self, rng: np.random.Generator) -> ToolCall:
        """Choose a tool and everything that will happen to the call."""
        at = rng.random() * self._cumulative[-1]
        which = int(np.searchsorted(self._cumulative, at, side="right"))
        tool = self._tools[which]
        attempts = tuple(
            (tool.latency_s.draw(rng), bool(rng.random() < tool.failure))
            for _ in range(tool.retries + 1)
        )
        return ToolCall(tool, self._expected_s[which], attempts, tokens(tool.result_tokens, rng))
