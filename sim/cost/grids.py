"""Tables over grids that may be ragged: linear inside the innermost slices, then between slices.

Outside of a grid nothing is fitted. Below the first point of an axis its value holds; beyond the
last it grows in proportion to the work there (tokens, bytes, KV tokens read, pairs of query and
key). A value comes with the worst grade among the points that it was made of, as an index of
`grades.GRADES`: an exact hit keeps its own, anything between is at least interpolated, anything
outside at least extrapolated.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import inf
from typing import TypeAlias

from .grades import EXTRAPOLATED, GRADES, INTERPOLATED
from .profile import Table
from .work import PS

Value: TypeAlias = tuple[float, int]  #: picoseconds of all launches of a step, and the grade
Rows: TypeAlias = Iterable[tuple[tuple[float, ...], float, int]]  #: coordinates, ps, grade


def rows_of(table: Table, factor: float = 1.0) -> list[tuple[tuple[float, ...], float, int]]:
    """The points of *table*: coordinates, picoseconds of all its launches times *factor*, grade."""
    scale = table.times * PS * factor
    grades = table.grades or ("measured",) * len(table.points)
    return [
        (point[:-1], point[-1] * scale, GRADES.index(grade))
        for point, grade in zip(table.points, grades, strict=True)
    ]


class Line:
    """A function of one coordinate.

    Args:
        rows: (coordinate, ps, grade), in any order.
        offset: beyond the last coordinate c, time grows as (x + offset) / (c + offset).
        rising: remove what falls, which along a context can only be noise (isotonic regression).
    """

    __slots__ = ("_sides", "codes", "offset", "values", "xs")

    def __init__(
        self, rows: Iterable[tuple[float, float, int]], offset: float = 0.0, *, rising: bool = False
    ) -> None:
        ordered = sorted(rows)
        self.xs = xs = [x for x, _, _ in ordered]
        self.values = [value for _, value, _ in ordered]
        self.codes = codes = [code for _, _, code in ordered]
        self.offset = offset
        if rising:
            self.values = isotonic(self.values)
        values = self.values
        #: by `bisect_right`: coordinate below, gap to the next, value, rise, grade between them
        self._sides = [
            (xs[0], inf, values[0], 0.0, max(codes[0], EXTRAPOLATED)),
            *(
                (x, xs[i] - x, value, values[i] - value, max(codes[i - 1], codes[i], INTERPOLATED))
                for i, (x, value) in enumerate(zip(xs[:-1], values, strict=False), 1)
            ),
            (xs[-1], inf, values[-1], 0.0, max(codes[-1], EXTRAPOLATED)),
        ]

    def at(self, x: float) -> Value:
        """The value at *x*."""
        i = bisect_right(self.xs, x)
        low, gap, value, rise, code = self._sides[i]
        if x == low:
            return value, self.codes[i - 1]
        if i == len(self.xs):
            last = low + self.offset
            return value * ((x + self.offset) / last if last else 1.0), code
        return value + (x - low) / gap * rise, code

    def clamped(self, x: float) -> Value:
        """The value at *x*, held beyond the last coordinate."""
        if x <= self.xs[-1]:
            return self.at(x)
        return self.values[-1], max(self.codes[-1], EXTRAPOLATED)


class Slices:
    """A function of two coordinates: a `Line` along the second for each value of the first.

    Args:
        grow: (x, last x, y) -> factor beyond the last slice.
        offset: first coordinate -> `Line.offset`.
        free: the second axis is bound by the first, so that lines end where nothing more can be
            (distinct experts of few tokens): beyond them is not outside of the table.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        grow: Callable[[float, float, float], float] = lambda x, last, y: x / last,
        offset: Callable[[float], float] = lambda x: 0.0,
        rising: bool = False,
        free: bool = False,
    ) -> None:
        groups: dict[float, list[tuple[float, float, int]]] = {}
        for (x, y), value, code in rows:
            groups.setdefault(x, []).append((y, value, code))
        self.xs = sorted(groups)
        self.lines = [Line(groups[x], offset(x), rising=rising) for x in self.xs]
        self._grow, self._free = grow, free
        self._most = max(line.xs[-1] for line in self.lines)
        #: by `bisect_right`: the coordinate below, the gap to the next, and the lines at both
        self._sides = [
            (self.xs[0], inf, self.lines[0], self.lines[0]),
            *(
                (low, high - low, *lines)
                for (low, high), lines in zip(pairwise(self.xs), pairwise(self.lines), strict=True)
            ),
            (self.xs[-1], inf, self.lines[-1], self.lines[-1]),
        ]

    def around(self, x: float) -> tuple[Line, Line, float]:
        """The slices on both sides of *x*, and the weight of the second."""
        xs = self.xs
        i = bisect_left(xs, x)
        if i == len(xs):
            return self.lines[-1], self.lines[-1], 0.0
        if xs[i] == x or not i:
            return self.lines[i], self.lines[i], 0.0
        return self.lines[i - 1], self.lines[i], (x - xs[i - 1]) / (xs[i] - xs[i - 1])

    def at(self, x: float, y: float) -> Value:
        """The value at (*x*, *y*)."""
        x, y = float(x), float(y)  # among floats a float is found sooner than an integer
        low, gap, line, after = self._sides[bisect_right(self.xs, x)]
        value, code = line.at(y)
        if share := (x - low) / gap:
            other, worse = after.at(y)
            value += share * (other - value)
            code = max(code, worse, INTERPOLATED)
        elif x > low:
            return value * self._grow(x, low, y), max(code, EXTRAPOLATED)
        elif x < low:
            return value, max(code, EXTRAPOLATED)
        if self._free and code == EXTRAPOLATED and self.lines[0].xs[0] <= y <= self._most:
            code = INTERPOLATED
        return value, code


def decode_slices(rows: Rows) -> Slices:
    """Decode attention by (sequences, mean KV tokens): rising along the context."""
    return Slices(rows, rising=True)


def prefill_slices(rows: Rows) -> Slices:
    """Prefill attention by (chunk, prefix), beyond its grid in proportion to pairs."""
    return Slices(
        rows,
        grow=lambda chunk, last, prefix: pairs(chunk, prefix) / pairs(last, prefix),
        offset=lambda chunk: (chunk + 1) / 2,
    )


def pairs(chunk: float, prefix: float) -> float:
    """Pairs of query and key of a causal chunk after a prefix."""
    return chunk * (prefix + (chunk + 1) / 2)


def isotonic(values: Sequence[float]) -> list[float]:
    """The rising sequence nearest to *values* in least squares (pool adjacent violators)."""
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        means.append(value)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            count = counts[-2] + counts[-1]
            mean = (means[-2] * counts[-2] + means[-1] * counts[-1]) / count
            del means[-1], counts[-1]
            means[-1], counts[-1] = mean, count
    return [mean for mean, count in zip(means, counts, strict=True) for _ in range(count)]
