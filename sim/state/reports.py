"""What replicas report to the router: their state as it is, or as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...policies.types import Picoseconds, ReplicaId

if TYPE_CHECKING:
    from .encoding import Encoder
    from .front import Served, Timed


class Live:
    """A replica as it is at the moment of reading (`policies.types.Routable`)."""

    age_ps = 0

    def __init__(self, server: Served) -> None:
        self._server = server
        self.id = server.number

    @property
    def waiting(self) -> int:
        """Requests that are not in the batch."""
        return self._server.replica.waiting_count

    @property
    def arriving(self) -> int:
        """Those of them whose KV is still to come."""
        return self._server.replica.arriving_count

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._server.replica.running)

    @property
    def kv_used(self) -> float:
        """Share of KV blocks that requests hold."""
        return self._server.kv_now()[0] / self._server.replica.pool.total


class LiveEncoder:
    """An encoder as it is at the moment of reading (`policies.types.Routable`), in images."""

    age_ps = 0

    def __init__(self, encoder: Encoder) -> None:
        self._replica = encoder.replica
        self.id = encoder.number

    arriving = 0  #: nothing comes to encoders over a link

    @property
    def waiting(self) -> int:
        """Images in line."""
        return len(self._replica.line)

    @property
    def running(self) -> int:
        """Images in the step under way."""
        return len(self._replica.computing)

    @property
    def kv_used(self) -> float:
        """Share of its cache that outputs hold which were not sent yet."""
        cache = self._replica.cache
        return cache.held_tokens / cache.size_tokens


class Report(NamedTuple):
    """A replica as it was (`policies.types.Routable`)."""

    id: ReplicaId
    waiting: int
    arriving: int
    running: int
    kv_used: float
    taken_ps: Picoseconds
    clock: Timed

    @property
    def age_ps(self) -> Picoseconds:
        """How old the report is."""
        return self.clock.now_ps - self.taken_ps
