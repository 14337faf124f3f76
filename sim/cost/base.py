"""What the engine asks of a cost model. Durations are integer picoseconds."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from ...policies.types import Picoseconds
from .grades import Doubt, LineDoubt

#: the shortest and the longest context of the decodes; `EVEN`: all alike, or nobody asked
Contexts: TypeAlias = tuple[int, int]
EVEN: Contexts = (0, 0)


class StepShape(NamedTuple):
    """The work of one engine step on one replica, as much of it as a duration depends on.

    Attributes:
        decodes: sequences that compute exactly one token.
        decode_context_tokens: KV tokens that these read, summed, the new ones included.
        prefills: (new tokens, context tokens before them) of every chunk of two or more tokens.
        samples: rows that go through the LM head.
        images: output tokens of each image that the encoder computes, one after the other.
        contexts: of the decodes, where the cost asks for them (`StepCost.uneven`).
        adapted: tokens of requests with a LoRA adapter.
        structured: sampled rows, drafts among them, of requests with a grammar.
    """

    decodes: int
    decode_context_tokens: int
    prefills: tuple[tuple[int, int], ...]
    samples: int
    images: tuple[int, ...] = ()
    contexts: Contexts = EVEN
    adapted: int = 0
    structured: int = 0


class DecodeLine(NamedTuple):
    """Duration of a pure decode step of a fixed batch, while the context grows.

    duration = base_ps + slope_ps * context_tokens, for context_tokens < until, as long as all
    contexts grow together.

    Attributes:
        doubt: how its time is graded; None: the cost does not say.
    """

    base_ps: Picoseconds
    slope_ps: Picoseconds
    until: int
    doubt: LineDoubt | None = None


class StepCost(Protocol):
    """Seconds of a step: roofline, table or stub. Pure functions of their arguments.

    Attributes:
        uneven: whether times depend on how far apart the contexts of the decodes are. If not, none
            need be measured.
    """

    @property
    def uneven(self) -> bool: ...

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        """Time of the step; at least 1 ps. For pure decode it equals `decode_line`, exactly."""

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        """The line that holds at (*decodes* >= 1, *context_tokens*), for *contexts* there.

        Args:
            adapted: how many of the decodes have a LoRA adapter.
            structured: how many have a grammar.
        """

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        """What computing *tokens* prompt tokens after *context_tokens* adds to a busy step."""

    def joint_ps(self, tokens: int) -> Picoseconds:
        """What data-parallel ranks compute and exchange together in a step of *tokens* in all.

        The other methods price one rank's own part; 0 where ranks share nothing.
        """

    @property
    def source(self) -> str:
        """Where the numbers come from, e.g. "datasheet roofline"; one line for the report."""


@runtime_checkable
class GradedCost(Protocol):
    """A `StepCost` that also says how each of its times was come by."""

    def timed(self, shape: StepShape) -> tuple[Picoseconds, Doubt]:
        """`duration_ps` of a step that is not pure decode, and its time by grade."""
