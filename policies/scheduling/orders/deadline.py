"""Earliest deadline first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...errors import InputError
from ...registry import order
from ...types import PS_PER_S, Picoseconds, Promise, SequenceView
from ..base import NEVER
from .check import at_least


@order("edf")
@dataclass(slots=True)
class EarliestDeadlineFirst:
    """The first token that is due first; those that are late anyway give way to the others.

    Method: Liu and Layland 1973; under overload a late request would make the next one late, so
    they go last, oldest deadline first (as deadline-aware LLM schedulers shed them).

    Attributes:
        ttft_s: limit on the first token, seconds after arrival.
        tenant_ttft_s: the same for some tenants.
        per_prompt_token_s: how much later a longer prompt may be answered, a token.
        late_last: False keeps the plain order of deadlines.
    """

    promise: ClassVar[Promise] = Promise(dynamic=True, exportable=True)

    ttft_s: float = 1.0
    tenant_ttft_s: dict[str, float] = field(default_factory=dict)
    per_prompt_token_s: float = 0.0
    late_last: bool = True

    def __post_init__(self) -> None:
        at_least(0, self, "ttft_s", "per_prompt_token_s")
        for tenant, limit_s in self.tenant_ttft_s.items():
            if not 0 <= limit_s < float("inf"):
                raise InputError(f"tenant_ttft_s of {tenant} must be 0 or more, found {limit_s!r}")

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[bool, int]:
        """Whether it is late, then its deadline."""
        due = self._due_ps(seq)
        answered = seq.known_tokens > seq.request.prompt_tokens
        return (self.late_last and due < now and not answered, due)

    def changes_ps(self, seq: SequenceView, now: Picoseconds) -> Picoseconds:
        """Just after its deadline."""
        due = self._due_ps(seq)
        return due + 1 if self.late_last and due >= now else NEVER

    def _due_ps(self, seq: SequenceView) -> Picoseconds:
        request = seq.request
        limit_s = self.tenant_ttft_s.get(request.tenant, self.ttft_s)
        limit_s += self.per_prompt_token_s * request.prompt_tokens
        return request.arrival_ps + round(limit_s * PS_PER_S)
