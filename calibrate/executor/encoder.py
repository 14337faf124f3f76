"""One encoder over a device."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection

from ...policies.types import Picoseconds, ReplicaId
from ...sim.state.config import PoolConfig
from ...sim.state.encoder_steps import EncoderSteps
from ...sim.state.encoding import Image
from .batch import encoding_of
from .clock import Clock
from .pictures import Pictures, picture_of
from .runner import Done, StepRunner, Ticket
from .texts import Texts


class EncoderServer(EncoderSteps):
    """An encoder whose steps are computed, on either clock; see `EncoderSteps`.

    Args:
        texts: names of the images.
    """

    def __init__(
        self,
        clock: Clock,
        number: ReplicaId,
        pool: PoolConfig,
        runner: StepRunner,
        texts: Texts,
        on_encoded: Callable[[Image], None],
    ) -> None:
        super().__init__(clock, number, pool, on_encoded)
        self.runner, self._alarm, self._texts = runner, clock, texts
        self._ticket: Ticket | None = None
        self._done: Done | None = None
        self.device_ps: Picoseconds = 0

    @property
    def waitable(self) -> Connection | None:
        """Readable when the step under way is computed; None: just wait for it."""
        return self.runner.waitable

    def wait(self) -> None:
        """Block until the step under way is computed; it ends now."""
        assert self._ticket is not None
        self._done = self._ticket.wait()
        self._end_ps = self._alarm.now_ps

    def _begin(self) -> None:
        cache, fresh = self.replica.cache, self.replica.fresh
        pictures = Pictures(
            drop=tuple(dict.fromkeys(cache.take_evicted())),
            encode=tuple(
                picture_of(image.flow.request.items[image.which], self._texts) for image in fresh
            ),
        )
        self._ticket = self.runner.launch(encoding_of(pictures))
        super()._begin()

    def _wake_at_end(self) -> object:
        return self._alarm.end_of(self, self._end_ps)

    def _ended(self) -> None:
        assert self._ticket is not None
        if self._done is None:
            self._done = self._ticket.wait()
        self.device_ps += self._done.device_ps
        self._ticket = self._done = None
        if not self._alarm.virtual:
            self._doubt = None  # its time was not the cost model's
        super()._ended()
