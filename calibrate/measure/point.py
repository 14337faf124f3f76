"""One thing to measure."""

from __future__ import annotations

from typing import NamedTuple

Key = tuple[str, str, tuple[int, ...]]  #: op, variant and place: what tells points apart


class Point(NamedTuple):
    """An operation at one place of its grid.

    Attributes:
        op: what is launched: a table's name ("qkv", "decode_attention") or a cost beside the
            tables ("copy_h2d_pinned", "graph_replay").
        by: names of the axes.
        at: where on them.
        variant: "" on the grid itself; else what else is varied, as "lognormal" context lengths.
        flops, bytes: arithmetic and traffic of one launch, its roofline.
        priority: 0 is measured first.
    """

    op: str
    by: tuple[str, ...]
    at: tuple[int, ...]
    variant: str = ""
    flops: float = 0.0
    bytes: float = 0.0
    priority: int = 0

    @property
    def key(self) -> Key:
        """What tells points apart."""
        return self.op, self.variant, self.at

    @property
    def family(self) -> str:
        """Ops that are built from the same things: steps on the host's clock and the device's."""
        return self.op.removesuffix("_device")

    def __str__(self) -> str:
        axes = ", ".join(f"{name} {value:,}" for name, value in zip(self.by, self.at, strict=True))
        return f"{self.op} at {axes}" + (f" ({self.variant})" if self.variant else "")


class Block(NamedTuple):
    """Points of one family that are measured together: their rounds are shuffled."""

    family: str
    priority: int
    points: tuple[Point, ...]
