"""A link that carries one transfer at a time, first come, first served."""

from __future__ import annotations

from ...policies.types import PS_PER_S, Picoseconds


class FifoLink:
    """Time on the wire is bytes over bandwidth; latency comes on top and does not occupy it.

    Attributes:
        carried_bytes: sent so far.
        busy_ps: time spent sending so far.
    """

    def __init__(self, latency_ps: Picoseconds, bytes_per_s: int) -> None:
        self._latency_ps, self._bytes_per_s = latency_ps, bytes_per_s
        self._free_at: Picoseconds = 0
        self.carried_bytes = 0
        self.busy_ps: Picoseconds = 0

    def send(self, now: Picoseconds, size_bytes: int, before_bytes: int = 0) -> Picoseconds:
        """When a message handed over at *now* has arrived.

        Args:
            before_bytes: sent before, of what this is a part of. The parts of a message occupy
                the link as long as it would as a whole, to the picosecond.
        """
        wire_ps = self._wire_ps(before_bytes + size_bytes) - self._wire_ps(before_bytes)
        self._free_at = max(now, self._free_at) + wire_ps
        self.carried_bytes += size_bytes
        self.busy_ps += wire_ps
        return self._free_at + self._latency_ps

    def _wire_ps(self, size_bytes: int) -> Picoseconds:
        return -(-size_bytes * PS_PER_S // self._bytes_per_s)
