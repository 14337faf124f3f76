"""Fair share between tenants by tokens served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import scheduling
from ..types import Picoseconds, Promise, SequenceView
from .base import Handle, ReplicaView, Step
from .orders.check import at_least
from .vllm_v1 import VllmV1


class Counters:
    """The order of the line: whoever's tenant has been served least, then by arrival.

    Attributes:
        served: tenant -> weighted tokens, lifted when it comes back from being away.
    """

    promise: ClassVar[Promise] = Promise(dynamic=True)

    def __init__(self) -> None:
        self.served: dict[str, float] = {}
        self._line: dict[str, set[int]] = {}  # tenant -> its requests in line
        self._back: dict[str, None] = {}  # tenants that had nothing in line and now do
        self._last = ""  # tenant of the request that left the line last

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[float, int]:
        """What the tenant has been served, then arrival; a request is seen here as it joins."""
        tenant = seq.request.tenant
        line = self._line.setdefault(tenant, set())
        if seq.is_waiting and seq.request.id not in line:
            if not line:
                self._back[tenant] = None
            line.add(seq.request.id)
        return (self.served.get(tenant, 0.0), seq.request.arrival_ps)

    def group(self, seq: SequenceView) -> str:
        """Its tenant: requests of one stand in the order of arrival, whatever was served."""
        return seq.request.tenant

    def lift(self) -> None:
        """Being away earns no credit: not below the least of those in line, or the last there."""
        if not self._back:
            return
        back, self._back = self._back, {}
        there = [
            self.served[name] for name, line in self._line.items() if line and name not in back
        ]
        least = min(there) if there else self.served.get(self._last, 0.0)
        for tenant in back:
            self.served[tenant] = max(self.served.get(tenant, 0.0), least)

    def leaves(self, seq: SequenceView) -> None:
        """*seq* is admitted."""
        self._last = seq.request.tenant
        self._line[self._last].discard(seq.request.id)
        self._back.pop(self._last, None)


@scheduling("vtc")
@dataclass(slots=True)
class VirtualTokenCounter(VllmV1):
    """vLLM's batching, where the line is led by the tenant that has been served least.

    A tenant's counter grows by its prompts when they are admitted, and by every token that it is
    answered. Two tenants who always have something in line are never further apart than twice the
    larger of a prompt and of what fits in KV, weighted. Method: Sheng et al., OSDI'24, algorithm 2.

    Attributes:
        prompt_weight, output_weight: of a token, in a tenant's counter.
    """

    promise: ClassVar[Promise] = Promise(repeats=True)

    prompt_weight: float = 1.0
    output_weight: float = 2.0

    order: Counters = field(default_factory=Counters, init=False, repr=False, compare=False)
    _known: dict[SequenceView, int] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        VllmV1.__post_init__(self)
        at_least(0, self, "prompt_weight", "output_weight")

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Count what was answered since the last step, then plan as vLLM does."""
        served, running = self.order.served, view.running
        for seq, known in list(self._known.items()):
            grown = seq.known_tokens - known
            if grown:
                served[seq.request.tenant] += self.output_weight * grown
                self._known[seq] = known + grown
            if seq not in running:
                del self._known[seq]
        self.order.lift()
        if view.waiting_count:
            step.reorder()
        VllmV1.schedule(self, view, step)

    def _admitted(self, step: Step, seq: Handle) -> None:
        self.order.leaves(seq)
        if not seq.preemptions:  # what is computed again was paid for
            tokens = seq.request.prompt_tokens
            self.order.served[seq.request.tenant] += self.prompt_weight * tokens
        self._known[seq] = seq.known_tokens
        step.reorder()
