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
from typing import TypeAlias

from ...policies.errors import InputError
from .grades import EXTRAPOLATED, GRADES, INTERPOLATED, MEASURED
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

    __slots__ = ("codes", "offset", "values", "xs")

    def __init__(
        self, rows: Iterable[tuple[float, float, int]], offset: float = 0.0, *, rising: bool = False
    ) -> None:
        ordered = sorted(rows)
        self.xs = [x for x, _, _ in ordered]
        self.values = [value for _, value, _ in ordered]
        self.codes = [code for _, _, code in ordered]
        self.offset = offset
        if rising:
            self.values = isotonic(self.values)

    def at(self, x: float) -> Value:
        """The value at *x*."""
        xs, values, codes = self.xs, self.values, self.codes
        i = bisect_left(xs, x)
        if i == len(xs):
            last = xs[-1] + self.offset
            factor = (x + self.offset) / last if last else 1.0
            return values[-1] * factor, max(codes[-1], EXTRAPOLATED)
        if xs[i] == x:
            return values[i], codes[i]
        if not i:
            return values[0], max(codes[0], EXTRAPOLATED)
        low, high = xs[i - 1], values[i - 1]
        share = (x - low) / (xs[i] - low)
        code = max(codes[i - 1], codes[i], INTERPOLATED)
        return high + share * (values[i] - high), code

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
        self._ends = [line.xs[-1] for line in self.lines]
        self._most = max(self._ends)

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
        low, high, share = self.around(x)
        value, code = low.at(y)
        if share:
            other, worse = high.at(y)
            value += share * (other - value)
            code = max(code, worse, INTERPOLATED)
        if x > self.xs[-1]:
            return value * self._grow(x, self.xs[-1], y), max(code, EXTRAPOLATED)
        if x < self.xs[0]:
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


class Mixed:
    """Attention of one kernel by (chunk, prefix, sequences, mean KV tokens).

    Beyond its grid the nearest point on it, plus what pure prefill and pure decode grow from there.

    Raises:
        InputError: no points of pure decode (chunk 0) or of pure prefill (0 sequences).
    """

    def __init__(self, rows: Rows) -> None:
        tree: dict[float, dict[float, list[tuple[tuple[float, float], float, int]]]] = {}
        decode: list[tuple[tuple[float, ...], float, int]] = []
        prefill: list[tuple[tuple[float, ...], float, int]] = []
        both: list[tuple[float, ...]] = []
        for at, value, code in rows:
            chunk, prefix, decodes, context = at
            if not chunk:
                decode.append(((decodes, context), value, code))
            elif not decodes:
                prefill.append(((chunk, prefix), value, code))
            else:
                both.append(at)
                slices = tree.setdefault(chunk, {}).setdefault(prefix, [])
                slices.append(((decodes, context), value, code))
        kinds = {"pure decode (chunk 0)": decode, "pure prefill (0 decodes)": prefill}
        for name, found in (kinds | {"chunk and decodes together": both}).items():
            if not found:
                raise InputError(f"a mixed attention table needs points of {name}")
        self.decode, self.prefill = decode_slices(decode), prefill_slices(prefill)
        self._limits = [max(axis) for axis in zip(*both, strict=True)]
        held = {c: {p: _Held(rows) for p, rows in found.items()} for c, found in tree.items()}
        self._leasts = sorted({s.least for found in held.values() for s in found.values()})
        self._trees = [_Tree(held, least) for least in self._leasts]

    def at(self, chunk: float, prefix: float, decodes: float, context: float) -> Value:
        """The value of a step with one chunk (or none) and *decodes* sequences (or none)."""
        if not chunk:
            return self.decode.at(decodes, context)
        if not decodes:
            return self.prefill.at(chunk, prefix)
        c, p, d, k = self._limits
        inside = (min(chunk, c), min(prefix, p), min(decodes, d), min(context, k))
        value, code = self._inside(*inside)
        if inside != (chunk, prefix, decodes, context):
            code = max(code, EXTRAPOLATED)
            value += self.prefill.at(chunk, prefix)[0] - self.prefill.at(*inside[:2])[0]
            value += self.decode.at(decodes, context)[0] - self.decode.at(*inside[2:])[0]
        return value, code

    def _inside(self, chunk: float, prefix: float, decodes: float, context: float) -> Value:
        tree = self._trees[max(0, bisect_right(self._leasts, context) - 1)]
        chunks = tree.chunks
        low, high, share, code = bracket(chunks, chunk)
        where = {axes: _Place(axes, decodes, context) for axes in tree.axes}
        value, worst = tree.at(high, prefix, where)
        code = max(code, worst)
        if chunk < chunks[0]:
            # between pure decode and the smallest chunk
            other, worst = self.decode.at(decodes, context)
            share = chunk / chunks[0]
            return other + share * (value - other), max(worst, code, INTERPOLATED)
        if share < 1:
            other, worst = tree.at(low, prefix, where)
            value, code = other + share * (value - other), max(code, worst)
        return value, code


#: the axes of a slice: its numbers of sequences, and its contexts
_Axes: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


def bracket(xs: Sequence[float], x: float) -> tuple[int, int, float, int]:
    """(index below, index above, weight of the one above, grade) of *x* on an axis.

    On a point, and outside of the axis, both are that point, or the nearest, with weight 1.
    """
    i = bisect_left(xs, x)
    if i == len(xs):
        return i - 1, i - 1, 1.0, EXTRAPOLATED
    if xs[i] == x:
        return i, i, 1.0, MEASURED
    if not i:
        return 0, 0, 1.0, EXTRAPOLATED
    return i - 1, i, (x - xs[i - 1]) / (xs[i] - xs[i - 1]), INTERPOLATED


class _Place:
    """Sequences and context on the axes of a slice: found once for all slices that share them."""

    __slots__ = ("code", "column", "next_column", "next_row", "row", "share_x", "share_y")

    def __init__(self, axes: _Axes, decodes: float, context: float) -> None:
        self.row, self.next_row, self.share_x, worst = bracket(axes[0], decodes)
        self.column, self.next_column, self.share_y, code = bracket(axes[1], context)
        self.code = max(code, worst)


class _Tree:
    """Chunk -> prefix -> sequences and context, of the slices that reach down to a context.

    Grids that were merged begin at different contexts: below where one begins, only the others
    say anything.
    """

    __slots__ = ("_prefixes", "_slices", "axes", "chunks")

    def __init__(self, held: dict[float, dict[float, _Held]], least: float) -> None:
        found = {
            chunk: [(p, s) for p, s in sorted(slices.items()) if s.least <= least]
            for chunk, slices in sorted(held.items())
        }
        found = {chunk: slices for chunk, slices in found.items() if slices}
        self.chunks = list(found)
        self._prefixes = [[prefix for prefix, _ in slices] for slices in found.values()]
        self._slices = [[one for _, one in slices] for slices in found.values()]
        self.axes = list(dict.fromkeys(one.axes for row in self._slices for one in row))

    def at(self, i: int, prefix: float, where: dict[_Axes, _Place]) -> Value:
        """At the chunk of index *i*, each slice at its place."""
        slices = self._slices[i]
        low, high, share, code = bracket(self._prefixes[i], prefix)
        one = slices[high]
        value, worst = one.at(where[one.axes])
        if share < 1:
            one = slices[low]
            other, worse = one.at(where[one.axes])
            return other + share * (value - other), max(code, worst, worse)
        return value, max(code, worst)


class _Held:
    """A full grid of sequences and contexts at one chunk and prefix; held at its edges.

    Where a number of sequences lacks a context, its line is interpolated there.
    """

    __slots__ = ("_codes", "_values", "axes", "least")

    def __init__(self, rows: Sequence[tuple[tuple[float, float], float, int]]) -> None:
        groups: dict[float, list[tuple[float, float, int]]] = {}
        for (decodes, context), value, code in rows:
            groups.setdefault(decodes, []).append((context, value, code))
        lines = {x: Line(found) for x, found in sorted(groups.items())}
        contexts = tuple(sorted({x for line in lines.values() for x in line.xs}))
        self.axes: _Axes = tuple(lines), contexts
        self.least = max(line.xs[0] for line in lines.values())
        grid = [[line.clamped(x) for x in contexts] for line in lines.values()]
        self._values = [[value for value, _ in row] for row in grid]
        self._codes = [[code for _, code in row] for row in grid]
        if not any(code for row in self._codes for code in row):
            self._codes = []  # all measured, which is most often so

    def at(self, where: _Place) -> Value:
        """The value at a place on `axes`."""
        x, y = where.share_x, where.share_y
        near, far = self._values[where.row], self._values[where.next_row]
        low = near[where.column]
        if y < 1:
            low += y * (near[where.next_column] - low)
        if x < 1:
            high = far[where.column]
            if y < 1:
                high += y * (far[where.next_column] - high)
            low += x * (high - low)
        if not self._codes:
            return low, where.code
        codes = self._codes
        return low, max(
            where.code,
            codes[where.row][where.column],
            codes[where.row][where.next_column],
            codes[where.next_row][where.column],
            codes[where.next_row][where.next_column],
        )


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
