"""How much an operation computes and moves: the roofline prior of its time."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """Of one launch.

    Attributes:
        flops: arithmetic, a multiply-add counting two.
        bytes: read and written, everything once.
    """

    flops: int
    bytes: int
