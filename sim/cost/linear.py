"""A step cost that is exactly linear: for tests, and for queues that have a closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...policies.errors import InputError
from ...policies.types import Picoseconds
from .base import EVEN, Contexts, DecodeLine, StepShape
from .roofline import UNBOUNDED


@dataclass(frozen=True)
class LinearCost:
    """base + a * prefill tokens + b * sequences + c * KV tokens read, in integer picoseconds.

    Data-parallel ranks together: d * tokens of all ranks.

    KV tokens read are the context of decodes and, for a chunk, the tokens before it and its own.
    Nothing else has a price: neither sampled rows, nor masks of grammars, nor images.

    Raises:
        InputError: a negative rate, or a base below 1 ps.
    """

    base_ps: Picoseconds
    per_prefill_token_ps: Picoseconds = 0
    per_sequence_ps: Picoseconds = 0
    per_context_token_ps: Picoseconds = 0
    per_joint_token_ps: Picoseconds = 0
    uneven: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rates = (self.per_prefill_token_ps, self.per_sequence_ps, self.per_context_token_ps)
        if self.base_ps < 1 or min(*rates, self.per_joint_token_ps) < 0:
            raise InputError("base_ps must be at least 1 and no rate negative", where="linear cost")

    @property
    def source(self) -> str:
        """The four numbers."""
        return (
            f"linear: {self.base_ps} + {self.per_prefill_token_ps} a prefill token + "
            f"{self.per_sequence_ps} a sequence + {self.per_context_token_ps} a context token, ps"
        )

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        """The formula, for any shape."""
        decodes, context, prefills, *_ = shape
        prefill_tokens = 0
        for new, old in prefills:
            prefill_tokens += new
            context += new + old
        return (
            self.base_ps
            + self.per_prefill_token_ps * prefill_tokens
            + self.per_sequence_ps * (decodes + len(prefills))
            + self.per_context_token_ps * context
        )

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        """One line for every context."""
        base = self.base_ps + self.per_sequence_ps * decodes
        return DecodeLine(base, self.per_context_token_ps, UNBOUNDED)

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        """What the tokens and the context they read add to a step that runs anyway."""
        context = self.per_context_token_ps * (tokens + context_tokens)
        return self.per_prefill_token_ps * tokens + (context if tokens else 0)

    def joint_ps(self, tokens: int) -> Picoseconds:
        """The same time for every token of every rank."""
        return self.per_joint_token_ps * tokens
