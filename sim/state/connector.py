"""Where a replica meets KV that lives elsewhere: vLLM's KV connector, without its worker half."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .sequence import Sequence


class Remote(NamedTuple):
    """KV that is to be had elsewhere.

    Attributes:
        tokens: prompt tokens beyond the local hit.
        asynchronous: they arrive later, while the sequence waits outside the batch.
    """

    tokens: int
    asynchronous: bool


class Connector(Protocol):
    """The scheduler's half of vLLM's KVConnectorBase_V1.

    Attributes:
        writes: KV from elsewhere is written into this replica's blocks. With asynchronous
            scheduling a block then stays taken until no step in flight can touch it.
    """

    writes: bool

    def planning(self) -> None:
        """A step is about to be planned; all that was planned before goes to the device first."""

    def matched(self, seq: Sequence, local_tokens: int) -> Remote | None:
        """What is to be had beyond *local_tokens*; None: not known yet, ask again."""

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """Blocks stand ready for *remote* (0 tokens: nothing will be fetched)."""

    def finished(self, seq: Sequence) -> bool:
        """*seq* ended here; True keeps its blocks until `Replica.sent` (somebody reads them)."""
