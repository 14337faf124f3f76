"""One encoder in simulated time."""

from __future__ import annotations

from collections.abc import Callable

from ...policies.types import ReplicaId
from ..state.config import PoolConfig
from ..state.encoder_steps import EncoderSteps
from ..state.encoding import Image
from .clock import Clock
from .config import Effort


class EncoderServer(EncoderSteps):
    """An encoder whose decisions are counted; see `EncoderSteps`."""

    def __init__(
        self,
        clock: Clock,
        number: ReplicaId,
        pool: PoolConfig,
        effort: Effort,
        on_encoded: Callable[[Image], None],
    ) -> None:
        super().__init__(clock, number, pool, on_encoded)
        self._effort = effort

    def boundary(self, callback: object) -> None:
        """As `EncoderSteps.boundary`."""
        self._effort.events += 1
        super().boundary(callback)
