"""What an operation to measure says: its points, and how to launch one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..grids import Grids
from ..point import Point
from ..shapes import Shapes
from ..timer import Call

if TYPE_CHECKING:
    from .bench import Bench


class Job(NamedTuple):
    """Launches of one point.

    Attributes:
        calls: the same work on different buffers, to be launched in turn.
        on_host: timed by the host's clock, the call itself waiting for what it measures.
        launches: how many operations one call is; its time is divided by them.
        read: what times itself and gives its samples; there are no calls then.
    """

    calls: Sequence[Call]
    on_host: bool = False
    launches: int = 1
    read: Callable[[], list[float]] | None = None


class Op(Protocol):
    """One kind of operation; `points` needs no torch, `build` does."""

    def points(self, shapes: Shapes, grids: Grids) -> list[Point]:
        """Where it is measured, in no order; empty where the model has none of it."""

    def build(self, point: Point, bench: Bench) -> Job:
        """Inputs of random data for *point*, and its launches."""


def by_tokens(op: str, tokens: int, flops: float, traffic: float, grids: Grids) -> Point:
    """A point of an op that goes by the rows of the forward pass."""
    priority = 0 if tokens in grids.coarse else 1
    return Point(op, ("tokens",), (tokens,), "", flops, traffic, priority)
