"""Attention of one kernel for prefill and decode: a table over four coordinates.

Linear along the context, then between numbers of sequences, then prefixes, then chunks. Every mixed
step asks it several times, so the innermost loops are written out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TypeAlias

from ...policies.errors import InputError
from .grades import EXTRAPOLATED, INTERPOLATED, MEASURED
from .grids import Line, Rows, Value, decode_slices, prefill_slices

#: the axes of a slice: its numbers of sequences, and its contexts
_Axes: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
#: on axes: row and weight of the next one, column and weight of the next one, grade. A weight of 1
#: is a point of the axis, or held at its end, and is that row or column alone
_Place: TypeAlias = tuple[int, float, int, float, int]


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
        if chunk <= c and prefix <= p and decodes <= d and context <= k:
            return self._inside(chunk, prefix, decodes, context)
        inside = (min(chunk, c), min(prefix, p), min(decodes, d), min(context, k))
        value, code = self._inside(*inside)
        value += self.prefill.at(chunk, prefix)[0] - self.prefill.at(*inside[:2])[0]
        value += self.decode.at(decodes, context)[0] - self.decode.at(*inside[2:])[0]
        return value, max(code, EXTRAPOLATED)

    def _inside(self, chunk: float, prefix: float, decodes: float, context: float) -> Value:
        tree = self._trees[max(0, bisect_right(self._leasts, context) - 1)]
        places = [_place(axes, decodes, context) for axes in tree.axes]
        chunks = tree.chunks
        i = bisect_left(chunks, chunk)
        if i == len(chunks):
            value, code = tree.at(i - 1, prefix, places)
            return value, max(code, EXTRAPOLATED)
        value, code = tree.at(i, prefix, places)
        if chunks[i] == chunk:
            return value, code
        if not i:
            # between pure decode and the smallest chunk
            other, worst = self.decode.at(decodes, context)
            share = chunk / chunks[0]
            return other + share * (value - other), max(worst, code, EXTRAPOLATED)
        other, worst = tree.at(i - 1, prefix, places)
        share = (chunk - chunks[i - 1]) / (chunks[i] - chunks[i - 1])
        return other + share * (value - other), max(code, worst, INTERPOLATED)


def _place(axes: _Axes, decodes: float, context: float) -> _Place:
    """Sequences and context on the axes of slices: found once for all that share them."""
    rows, columns = axes
    code, x, y = MEASURED, 1.0, 1.0
    i, j = bisect_left(rows, decodes), bisect_left(columns, context)
    if i == len(rows):
        i, code = i - 1, EXTRAPOLATED
    elif rows[i] != decodes:
        if i:
            code = INTERPOLATED
            i -= 1
            x = (decodes - rows[i]) / (rows[i + 1] - rows[i])
        else:
            code = EXTRAPOLATED
    if j == len(columns):
        return i, x, j - 1, y, EXTRAPOLATED
    if columns[j] != context:
        if not j:
            return i, x, 0, y, EXTRAPOLATED
        j -= 1
        y = (context - columns[j]) / (columns[j + 1] - columns[j])
        code = max(code, INTERPOLATED)
    return i, x, j, y, code


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
        self.axes = list(dict.fromkeys(one.axes for row in found.values() for _, one in row))
        self._slices = [
            [(self.axes.index(one.axes), one) for _, one in slices] for slices in found.values()
        ]

    def at(self, i: int, prefix: float, places: list[_Place]) -> Value:
        """At the chunk of index *i*, each slice at its place."""
        prefixes, slices = self._prefixes[i], self._slices[i]
        j = bisect_left(prefixes, prefix)
        if j == len(prefixes):
            axes, one = slices[-1]
            value, code = one.at(places[axes])
            return value, max(code, EXTRAPOLATED)
        axes, one = slices[j]
        value, code = one.at(places[axes])
        if prefixes[j] == prefix:
            return value, code
        if not j:
            return value, max(code, EXTRAPOLATED)
        axes, one = slices[j - 1]
        other, worse = one.at(places[axes])
        share = (prefix - prefixes[j - 1]) / (prefixes[j] - prefixes[j - 1])
        return other + share * (value - other), max(code, worse, INTERPOLATED)


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

    def at(self, place: _Place) -> Value:
        """The value at a place on `axes`."""
        row, x, column, y, code = place
        near = self._values[row]
        low = near[column]
        if y < 1:
            low += y * (near[column + 1] - low)
        if x < 1:
            far = self._values[row + 1]
            high = far[column]
            if y < 1:
                high += y * (far[column + 1] - high)
            low += x * (high - low)
        if self._codes:
            rows, columns = 1 + (x < 1), 1 + (y < 1)
            for codes in self._codes[row : row + rows]:
                code = max(code, *codes[column : column + columns])
        return low, code
