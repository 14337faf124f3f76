"""A batch as large as the time of a step allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..registry import scheduling
from ..types import PS_PER_S, Picoseconds, Promise
from .base import ReplicaView, Step
from .vllm_v1 import VllmV1


@scheduling("adaptive-batch")
@dataclass(slots=True)
class AdaptiveBatch(VllmV1):
    """vLLM's batching with a batch size that follows the time between tokens.

    A step that lasted longer than `tpot_s` shrinks the batch that admission may fill by `shrink`,
    one that was faster grows it by `grow`. Requests in the batch are never thrown out: the batch
    shrinks as they end. Method: additive increase, multiplicative decrease, as in SLA-constrained
    dynamic batching (Pang et al., arXiv:2503.05248).

    Attributes:
        tpot_s: limit on the time of a step, seconds.
        least: the batch never shrinks below this.
        grow: requests added after a fast step.
        shrink: factor after a slow one.
    """

    promise: ClassVar[Promise] = Promise()

    tpot_s: float = 0.05
    least: int = 1
    grow: float = 0.25
    shrink: float = 0.9

    _size: float = field(default=0.0, init=False, repr=False)
    _before: Picoseconds = field(default=-1, init=False, repr=False)
    _busy: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        VllmV1.__post_init__(self)
        if not self.tpot_s > 0 or self.least < 1 or not self.grow > 0 or not 0 < self.shrink < 1:
            raise InputError(
                "adaptive-batch needs tpot_s and grow above 0, least of at least 1 and shrink "
                f"between 0 and 1, found {self.tpot_s}, {self.grow}, {self.least}, {self.shrink}"
            )

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Learn from the time since the last plan, if there was work, then plan as vLLM does."""
        size = self._size or float(view.max_num_seqs)
        if self._busy and view.now > self._before:
            slow = view.now - self._before > self.tpot_s * PS_PER_S
            size = size * self.shrink if slow else size + self.grow
        self._size = min(max(size, float(self.least)), float(view.max_num_seqs))
        self.max_num_active_seqs = max(int(self._size), 1)
        VllmV1.schedule(self, view, step)
        self._before, self._busy = view.now, bool(view.running)

    def repeats(self, view: ReplicaView) -> bool:
        """The size moves with every step, and with it who may be admitted: never, in a line."""
        return False
