"""Orders of the waiting line and choices of victim: small objects that presets consult."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import order, victim
from ..types import Picoseconds, Promise, SequenceView


@order("fcfs")
@dataclass(slots=True)
class Fcfs:
    """First come, first served; a preempted request returns to the front."""

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[int, ...]:
        """Rank of a waiting request: its arrival."""
        return (seq.request.arrival_ps,)


@order("priority")
@dataclass(slots=True)
class Priority:
    """Smallest `priority` first, then first come, first served (vLLM's priority policy)."""

    promise: ClassVar[Promise] = Promise(repeats=True, exportable=True)

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[int, ...]:
        """Rank of a waiting request: its priority, then its arrival."""
        return (seq.request.priority, seq.request.arrival_ps)


@victim("last-admitted")
@dataclass(slots=True)
class LastAdmitted:
    """The request that joined the batch last (vLLM's FCFS policy)."""

    promise: ClassVar[Promise] = Promise(exportable=True)

    def score(self, seq: SequenceView, position: int) -> tuple[int, ...]:
        """Its place in the batch."""
        return (position,)


@victim("lowest-priority")
@dataclass(slots=True)
class LowestPriority:
    """The request with the largest `priority`, the latest among equals (vLLM's priority policy)."""

    promise: ClassVar[Promise] = Promise(exportable=True)

    def score(self, seq: SequenceView, position: int) -> tuple[int, ...]:
        """Its priority, then its arrival."""
        return (seq.request.priority, seq.request.arrival_ps)
