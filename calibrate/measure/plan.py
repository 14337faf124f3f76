"""The plan: every point, in blocks, what matters most first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .grids import Grids, cpu_grids, gpu_grids
from .ops import Op, operations
from .point import Block, Key, Point
from .shapes import Shapes

_BLOCK = 40  # points measured together: short enough to flush often, long enough to shuffle


def grids(shapes: Shapes, kind: str) -> Grids:
    """The grids for a device of *kind* "cuda" or "cpu"."""
    longest = shapes.max_context
    if kind == "cuda":
        return gpu_grids(shapes.budget, shapes.max_seqs, longest, shapes.graph_sizes())
    return cpu_grids(shapes.budget, shapes.max_seqs, longest)


def plan(shapes: Shapes, kind: str, devices: int = 1) -> list[Block]:
    """All blocks, in the order in which they are to be measured.

    Priority 0 is a coarse grid of everything a step has, 1 the rest of these grids, 2 and 3 what
    only some runs need: stopped at any time, a plan has measured the best it could.
    """
    chosen = grids(shapes, kind)
    points = [
        point for op in operations(kind, devices) for point in _unique(op.points(shapes, chosen))
    ]
    return blocks(points)


def blocks(points: Iterable[Point]) -> list[Block]:
    """The points in blocks of one family and priority, in the order of the points."""
    groups: dict[tuple[int, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.priority, point.family), []).append(point)
    return [
        Block(family, priority, tuple(part))
        for (priority, family), members in sorted(groups.items(), key=lambda item: item[0][0])
        for part in _parts(members)
    ]


def builders(shapes: Shapes, kind: str, devices: int = 1) -> dict[str, Op]:
    """Which family builds the points of each op."""
    chosen = grids(shapes, kind)
    return {p.op: op for op in operations(kind, devices) for p in op.points(shapes, chosen)}


def _parts(members: Sequence[Point]) -> list[Sequence[Point]]:
    count = -(-len(members) // _BLOCK)
    return [members[i::count] for i in range(count)]


def _unique(points: Iterable[Point]) -> list[Point]:
    found: dict[Key, Point] = {}
    for point in points:
        found.setdefault(point.key, point)
    return list(found.values())
