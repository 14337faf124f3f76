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
        limits = [0.0] * 4
        for at, value, code in rows:
            chunk, prefix, decodes, context = at
            if not chunk:
                decode.append(((decodes, context), value, code))
                continue
            if not decodes:
                prefill.append(((chunk, prefix), value, code))
            limits = [max(a, b) for a, b in zip(limits, at, strict=True)]
            slices = tree.setdefault(chunk, {}).setdefault(prefix, [])
            slices.append(((decodes, context), value, code))
        for name, found in (("decode (chunk 0)", decode), ("prefill (0 decodes)", prefill)):
            if not found:
                raise InputError(f"a mixed attention table needs points of pure {name}")
        self.decode, self.prefill = decode_slices(decode), prefill_slices(prefill)
        self._limits = limits
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
        i = bisect_left(chunks, chunk)
        if i == len(chunks):
            value, code = tree.at(i - 1, prefix, decodes, context)
            return value, max(code, EXTRAPOLATED)
        value, code = tree.at(i, prefix, decodes, context)
        if chunks[i] == chunk:
            return value, code
        if i:
            before = chunks[i - 1]
            low, lower = tree.at(i - 1, prefix, decodes, context)
        else:
            before = 0.0
            low, lower = self.decode.at(decodes, context)
        share = (chunk - before) / (chunks[i] - before)
        return low + share * (value - low), max(code, lower, INTERPOLATED)


class _Tree:
    """Chunk -> prefix -> sequences and context, of the slices that reach down to a context.

    Grids that were merged begin at different contexts: below where one begins, only the others
    say anything.
    """

    __slots__ = ("_prefixes", "_slices", "chunks")

    def __init__(self, held: dict[float, dict[float, _Held]], least: float) -> None:
        found = {
            chunk: [(p, s) for p, s in sorted(slices.items()) if s.least <= least]
            for chunk, slices in sorted(held.items())
        }
        found = {chunk: slices for chunk, slices in found.items() if slices}
        self.chunks = list(found)
        self._prefixes = [[prefix for prefix, _ in slices] for slices in found.values()]
        self._slices = [[one for _, one in slices] for slices in found.values()]

    def at(self, i: int, prefix: float, decodes: float, context: float) -> Value:
        """At the chunk of index *i*."""
        prefixes, slices = self._prefixes[i], self._slices[i]
        j = bisect_left(prefixes, prefix)
        if j == len(prefixes):
            value, code = slices[-1].at(decodes, context)
            return value, max(code, EXTRAPOLATED)
        value, code = slices[j].at(decodes, context)
        if prefixes[j] == prefix or not j:
            return value, code
        low, lower = slices[j - 1].at(decodes, context)
        share = (prefix - prefixes[j - 1]) / (prefixes[j] - prefixes[j - 1])
        return low + share * (value - low), max(code, lower, INTERPOLATED)


class _Held:
    """Sequences and context at one chunk and prefix; held at the edges."""

    __slots__ = ("_lines", "_xs", "least")

    def __init__(self, rows: Sequence[tuple[tuple[float, float], float, int]]) -> None:
        groups: dict[float, list[tuple[float, float, int]]] = {}
        for (decodes, context), value, code in rows:
            groups.setdefault(decodes, []).append((context, value, code))
        self._xs = sorted(groups)
        self._lines = [Line(groups[x]) for x in self._xs]
        self.least = max(line.xs[0] for line in self._lines)

    def at(self, decodes: float, context: float) -> Value:
        """With *decodes* sequences of *context* tokens."""
        xs, lines = self._xs, self._lines
        i = bisect_left(xs, decodes)
        if i == len(xs):
            value, code = lines[-1].clamped(context)
            return value, max(code, EXTRAPOLATED)
        value, code = lines[i].clamped(context)
        if xs[i] == decodes or not i:
            return value, code
        low, lower = lines[i - 1].clamped(context)
        share = (decodes - xs[i - 1]) / (xs[i] - xs[i - 1])
        return low + share * (value - low), max(code, lower, INTERPOLATED)


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
