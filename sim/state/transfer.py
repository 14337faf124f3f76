"""One KV move from replica to replica. It has no clock: the host says when it completes."""

from __future__ import annotations

from enum import Enum

from ...policies.errors import IllegalPlanError
from .sequence import Sequence


class Stage(Enum):
    """Where a transfer is in its life."""

    REQUESTED = "requested"  # the source holds the KV and waits to be asked
    MOVING = "moving"  # the destination has blocks for it; bytes are on the way
    ARRIVED = "arrived"
    FAILED = "failed"  # what came is of no use; it is sent again, or given up
    RELEASED = "released"  # the source may free its blocks


_NEXT = {
    Stage.REQUESTED: {Stage.MOVING, Stage.RELEASED},
    Stage.MOVING: {Stage.ARRIVED, Stage.FAILED},
    Stage.FAILED: {Stage.MOVING, Stage.RELEASED},
    Stage.ARRIVED: {Stage.RELEASED},
    Stage.RELEASED: set(),
}


class KVTransfer:
    """A prompt's KV on its way from the sequence that computed it to the one that answers.

    Attributes:
        source: computes the prompt; once it has ended its blocks stay until RELEASED.
        tokens: prompt tokens that the destination does not hold itself.
        size_bytes: what that is on the link, in whole blocks.
    """

    __slots__ = ("size_bytes", "source", "stage", "tokens")

    def __init__(self, source: Sequence) -> None:
        self.source = source
        self.stage = Stage.REQUESTED
        self.tokens = self.size_bytes = 0

    def advance(self, stage: Stage) -> None:
        """Go on to *stage*.

        Raises:
            IllegalPlanError: the transfer cannot be there next.
        """
        if stage not in _NEXT[self.stage]:
            raise IllegalPlanError(
                f"a KV transfer cannot go from {self.stage.value} to {stage.value}"
            )
        self.stage = stage
