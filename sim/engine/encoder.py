"""One encoder in simulated time: a step of images at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...policies.types import Picoseconds, ReplicaId
from ..cost.base import GradedCost, StepShape
from ..cost.grades import Ledger
from ..state.config import PoolConfig
from ..state.encoding import EncoderReplica, Image
from ..state.step import UNLIMITED
from .clock import REPLICA, Clock
from .config import Effort


class EncoderServer:
    """Drives an `EncoderReplica` by callbacks at the ends of its steps.

    Args:
        number: the replica's id; ties at one instant go by it.
        pool: its budget is `encoder_budget`, or the token budget of a step where that is 0.
        on_encoded: called with each image whose output is here, in order.
    """

    def __init__(
        self,
        clock: Clock,
        number: ReplicaId,
        pool: PoolConfig,
        effort: Effort,
        on_encoded: Callable[[Image], None],
    ) -> None:
        limits = pool.limits
        budget = limits.encoder_budget or limits.max_num_batched_tokens
        self.number = number
        self.replica = EncoderReplica(budget, limits.encoder_cache_size or UNLIMITED)
        self.ledger = Ledger()  #: step time by grade
        self.last_end: Picoseconds = 0  #: of the last finished step
        self.busy_ps: Picoseconds = 0
        self._clock, self._cost, self._effort = clock, pool.cost, effort
        self._on_encoded = on_encoded
        self._wake: Any = None  # the pending callback, at the end of the step under way or now

    def submit(self, image: Image) -> None:
        """An image arrives; it is seen at the next decision."""
        self.replica.submit(image)
        self._stir()

    def sent(self, image: Image) -> None:
        """Its output is needed here no more."""
        self.replica.cache.let_go(image.flow, image.which)
        self._stir()

    def _stir(self) -> None:
        if self._wake is None and self.replica.line:
            self._wake = self._clock.at(self._clock.now_ps, REPLICA + self.number, self._boundary)

    def _boundary(self, callback: object) -> None:
        assert callback is self._wake
        self._effort.events += 1
        for image in self.replica.finish():
            self._on_encoded(image)
        for image in self.replica.schedule():
            self._on_encoded(image)
        self._wake = None
        if self.replica.computing:
            self._begin()

    def _begin(self) -> None:
        shape, now = StepShape(0, 0, (), 0, self.replica.shape), self._clock.now_ps
        if isinstance(self._cost, GradedCost):
            duration_ps, doubt = self._cost.timed(shape)
            self.ledger.add(doubt, 1, duration_ps)
        else:
            duration_ps = self._cost.duration_ps(shape)
        self.busy_ps += duration_ps
        self.last_end = now + duration_ps
        self._wake = self._clock.at(self.last_end, REPLICA + self.number, self._boundary)
