"""A batch that the best-ranked requests take from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..registry import scheduling
from ..types import Promise, SequenceView
from .base import ReplicaView, Step
from .vllm_v1 import VllmV1


@scheduling("preemptive")
@dataclass(slots=True)
class Preemptive(VllmV1):
    """vLLM's batching, in which waiting requests take the places of those that rank behind them.

    Rank is the scenario's order (`srpt`, `mlfq`, `round-robin`, `priority` …). Before each step the
    requests that rank last give way to those in line before them: as many as find no place in the
    batch, and as it takes for the first of the line to find KV. What they lose is computed again,
    so a prefix cache that keeps it matters; with `preemption: swap` it goes to host memory and
    back, when it is needed (FastServe does so ahead of time, beside other steps).

    Attributes:
        most_preemptions: a request that was preempted so often keeps its place.
    """

    promise: ClassVar[Promise] = Promise(repeats=True)
    by_rank: ClassVar[bool] = True  #: who gives way waits by its rank, not at the front of the line

    most_preemptions: int = 8

    def __post_init__(self) -> None:
        VllmV1.__post_init__(self)
        if self.most_preemptions < 1:
            raise ValueError(f"most_preemptions must be at least 1, found {self.most_preemptions}")

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Make room for those who rank before the batch, then plan as vLLM does."""
        if view.waiting_count and view.running:
            self._make_room(view, step)
        VllmV1.schedule(self, view, step)

    def repeats(self, view: ReplicaView) -> bool:
        """Only while nobody waits: ranks change as requests go on."""
        return not view.waiting_count and VllmV1.repeats(self, view)

    def _make_room(self, view: ReplicaView, step: Step) -> None:
        places = view.max_num_seqs - len(view.running)
        losers: list[SequenceView] | None = None
        for heads, head in enumerate(view.line, 1):
            while heads > places or (heads == 1 and not step.fits(head)):
                if losers is None:
                    losers = self._losers(view)
                if not losers or view.rank(losers[-1]) < view.rank(head):
                    return
                if not step.preempt(losers.pop(), swap=self._swaps):
                    return
                places += 1

    def _losers(self, view: ReplicaView) -> list[SequenceView]:
        """Who may be preempted, the last in rank last."""
        found = [seq for seq in view.running if seq.preemptions < self.most_preemptions]
        return sorted(found, key=view.rank)
