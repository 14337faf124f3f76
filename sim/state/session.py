"""What a workload says to its host: calls, waits and uses of limited resources.

A session is a generator that yields effects and is sent their results. It has no clock and
knows nothing of SimPy, so the same session drives the simulator and the executor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from ...policies.types import Grammar, MultiModalItem, Picoseconds, Segment, WorkflowHint


class Call(NamedTuple):
    """Ask the model once. Result: `CallResult`.

    Attributes:
        prompt: what is sent, as segments.
        output_tokens: how many tokens the model will answer with (at least 1); hidden from
            every policy that is not an oracle.
        output_content: content id of the answer, so that a later prompt can quote it.
        max_tokens: the cap that the client sends; None for what the context still has room for.
        The other fields are those of `policies.types.Request`.
    """

    prompt: tuple[Segment, ...]
    output_tokens: int
    output_content: int
    max_tokens: int | None = None
    session: int = -1
    turn: int = 0
    priority: int = 0
    tenant: str = ""
    kind: str = ""
    model: str = ""
    lora: str = ""
    salt: str = ""
    items: tuple[MultiModalItem, ...] = ()
    tool_time_s: float = -1.0
    workflow: WorkflowHint | None = None
    grammar: Grammar | None = None


class CallResult(NamedTuple):
    """How a call ended.

    Attributes:
        ok: False when the request was refused, shed or failed.
        reason: why not, else "".
        output_tokens: tokens really answered (a context limit can cut the answer short).
    """

    ok: bool
    reason: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let simulated time pass. Result: None."""

    duration_ps: Picoseconds


@dataclass(frozen=True, slots=True)
class Use:
    """Queue for one slot of a named resource and hold it. Result: True, or False on a time-out.

    Attributes:
        resource: a key of `Workload.resources`.
        duration_ps: how long the work holds its slot.
        timeout_ps: cut the work off after this long in the slot (None: never).
    """

    resource: str
    duration_ps: Picoseconds
    timeout_ps: Picoseconds | None = None


@dataclass(frozen=True, slots=True)
class Together:
    """Run sessions side by side. Result: when the last one ends, their return values in order."""

    sessions: tuple[Session, ...]


Effect: TypeAlias = Call | Sleep | Use | Together
Session: TypeAlias = Generator[Effect, object, object]


class Arrival(NamedTuple):
    """Something that starts at a fixed time: one call, or a session (made when it is due)."""

    at_ps: Picoseconds
    what: Call | Callable[[], Session]


class Workload(Protocol):
    """What clients do. Built once per run from the scenario; consumed once."""

    @property
    def resources(self) -> dict[str, int]:
        """Slots of each limited resource that `Use` may name, e.g. ``{"cpu": 64}``."""

    @property
    def closed_loop(self) -> bool:
        """True when later calls depend on earlier answers, so no stream is known beforehand."""

    @property
    def expected_requests(self) -> int | None:
        """For progress only; None when it cannot be known."""

    def arrivals(self) -> Iterator[Arrival]:
        """In order of `at_ps`."""
