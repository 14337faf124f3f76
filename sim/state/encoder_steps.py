"""An encoder in any host: a step of images at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ...policies.types import Picoseconds, ReplicaId
from ..cost.base import GradedCost, StepShape
from ..cost.grades import Doubt, Ledger
from .config import PoolConfig
from .encoding import EncoderReplica, Image
from .step import UNLIMITED
from .ties import REPLICA


class Timer(Protocol):
    """A host's clock."""

    @property
    def now_ps(self) -> Picoseconds:
        """The time."""

    def at(self, time_ps: Picoseconds, priority: int, call: Callable[[Any], None]) -> object:
        """Call at an absolute time, with what this returns."""


class EncoderSteps:
    """Drives an `EncoderReplica` by callbacks at the ends of its steps.

    Args:
        number: the replica's id; ties at one instant go by it.
        pool: its budget is `encoder_budget`, or the token budget of a step where that is 0.
        on_encoded: called with each image whose output is here, in order.

    Attributes:
        ledger: step time by grade.
        last_end: of the last finished step.
    """

    def __init__(
        self,
        clock: Timer,
        number: ReplicaId,
        pool: PoolConfig,
        on_encoded: Callable[[Image], None],
    ) -> None:
        limits = pool.limits
        budget = limits.encoder_budget or limits.max_num_batched_tokens
        self.number = number
        self.replica = EncoderReplica(budget, limits.encoder_cache_size or UNLIMITED)
        self.ledger = Ledger()
        self.last_end: Picoseconds = 0
        self.busy_ps: Picoseconds = 0
        self._clock, self._cost, self._on_encoded = clock, pool.cost, on_encoded
        self._begun_ps: Picoseconds = 0
        self._end_ps: Picoseconds = 0
        self._doubt: Doubt | None = None
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
            self._wake = self._clock.at(self._clock.now_ps, REPLICA + self.number, self.boundary)

    def boundary(self, callback: object) -> None:
        """A step has ended, or an image came to an idle encoder: hand over, plan what is next."""
        assert callback is self._wake
        if self.replica.computing:
            self._ended()
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
            duration_ps, self._doubt = self._cost.timed(shape)
        else:
            duration_ps = self._cost.duration_ps(shape)
        self._begun_ps, self._end_ps = now, now + duration_ps
        self._wake = self._wake_at_end()

    def _wake_at_end(self) -> object:
        return self._clock.at(self._end_ps, REPLICA + self.number, self.boundary)

    def _ended(self) -> None:
        duration_ps = self._end_ps - self._begun_ps
        self.busy_ps += duration_ps
        self.last_end = self._end_ps
        if self._doubt is not None:
            self.ledger.add(self._doubt, 1, duration_ps)
