"""Attention of one kernel for prefill and decode: a table over four coordinates.

Linear along the context, then between numbers of sequences, then prefixes, then chunks. Every mixed
step reads it, at two contexts where these are uneven: gaps and rises between neighbours are worked
out when the table is made, and the innermost loops are written out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf
from typing import TypeAlias, TypeVar

from ...policies.errors import InputError
from .grades import EXTRAPOLATED, INTERPOLATED, MEASURED
from .grids import Line, Rows, Value, decode_slices, prefill_slices

_T = TypeVar("_T")

#: value and rise along the context at a number of sequences, and both at the next one
_Cell: TypeAlias = tuple[float, float, float, float]
#: a point of a coordinate: what is there, where, how far the next one is, the grade between them
_Side: TypeAlias = tuple[_T, float, float, int]


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
        axes = [_Axis(xs) for xs in zip(*both, strict=True)]
        self._limits = [axis.xs[-1] for axis in axes]
        held = {c: {p: _Held(rows, axes) for p, rows in kept.items()} for c, kept in tree.items()}
        leasts = sorted({s.least for kept in held.values() for s in kept.values()})
        trees = [_Tree(held, least, axes) for least in leasts]
        #: the slices that reach down to a context, by `bisect_right` of it
        self._contexts = axes[-1].xs
        reached = [trees[max(0, bisect_right(leasts, x) - 1)] for x in self._contexts]
        self._trees = [reached[0], *reached]

    def at(self, chunk: float, prefix: float, decodes: float, context: float) -> Value:
        """The value of a step with one chunk (or none) and *decodes* sequences (or none)."""
        if not chunk:
            return self.decode.at(decodes, context)
        if not decodes:
            return self.prefill.at(chunk, prefix)
        value, _, code = self.beside(chunk, prefix, decodes, context, context)
        return value, code

    def beside(
        self, chunk: float, prefix: float, decodes: float, context: float, longest: float
    ) -> tuple[float, float, int]:
        """A chunk beside *decodes* sequences of *context* tokens each, and beside longer ones.

        Args:
            longest: not below *context*.

        Returns:
            The value at *context*, that at *longest*, and the worst grade of both.
        """
        c, p, d, k = self._limits
        if chunk <= c and prefix <= p and decodes <= d and context <= k and longest <= k:
            return self._inside(chunk, prefix, decodes, context, longest)
        new, old, few = min(chunk, c), min(prefix, p), min(decodes, d)
        mean, most = min(context, k), min(longest, k)
        low, high, code = self._inside(new, old, few, mean, most)
        if chunk > c or prefix > p:
            more = self.prefill.at(chunk, prefix)[0] - self.prefill.at(new, old)[0]
            low, high = low + more, high + more
        if decodes > d or longest > k:
            at = self.decode.at
            high += at(decodes, longest)[0] - at(few, most)[0]
            low += at(decodes, context)[0] - at(few, mean)[0]
        return low, high, max(code, EXTRAPOLATED)

    def _inside(
        self, chunk: float, prefix: float, decodes: float, context: float, longest: float
    ) -> tuple[float, float, int]:
        # axes are of floats, among which a float is found sooner than an integer
        new, old, few, most = float(chunk), float(prefix), float(decodes), float(longest)
        i = bisect_right(self._contexts, context)
        j = bisect_right(self._contexts, most) if most != context else i
        tree, other = self._trees[i], self._trees[j]
        if tree is other:
            low, high, code = tree.read(new, old, few, context, i, most, j)
        else:
            low, _, code = tree.read(new, old, few, context, i, context, i)
            high, _, worst = other.read(new, old, few, most, j, most, j)
            code = max(code, worst)
        if new >= tree.least and new >= other.least:
            return low, high, code
        # between pure decode and the smallest chunk
        below, worst = self.decode.at(decodes, context)
        low = below + min(1.0, new / tree.least) * (low - below)
        below, worse = self.decode.at(decodes, longest)
        high = below + min(1.0, new / other.least) * (high - below)
        return low, high, max(code, worst, worse, EXTRAPOLATED)


class _Axis:
    """The points of one coordinate in all slices."""

    def __init__(self, xs: Iterable[float]) -> None:
        self.xs = sorted(set(xs))
        self._places: dict[tuple[float, ...], list[_Side[int]]] = {}

    def sides(self, xs: Sequence[float], found: Sequence[_T]) -> list[_Side[_T]]:
        """What of *found*, which is at *xs*, lies at or below x, by ``bisect_right(self.xs, x)``.

        Outside of *xs* the nearest of them, endlessly far from the next one, so that it holds.
        """
        gaps = [high - low for low, high in pairwise(xs)]
        grades = [*[INTERPOLATED] * len(gaps), EXTRAPOLATED]
        made = list(zip(found, xs, [*gaps, inf], grades, strict=True))
        outside = found[0], xs[0], inf, EXTRAPOLATED
        return [outside, *(made[i - 1] if (i := bisect_right(xs, x)) else outside for x in self.xs)]

    def places(self, xs: Sequence[float]) -> list[_Side[int]]:
        """Indices of *xs*: one list for all that have the same."""
        key = tuple(xs)
        if key not in self._places:
            self._places[key] = self.sides(xs, range(len(xs)))
        return self._places[key]


class _Tree:
    """Chunk -> prefix -> sequences and context, of the slices that reach down to a context.

    Grids that were merged begin at different contexts: below where one begins, only the others
    say anything.
    """

    __slots__ = ("_axes", "_levels", "least")

    def __init__(
        self, held: dict[float, dict[float, _Held]], least: float, axes: Sequence[_Axis]
    ) -> None:
        chunks, prefixes, _, _ = axes
        found = {
            chunk: {p: one for p, one in sorted(slices.items()) if one.least <= least}
            for chunk, slices in sorted(held.items())
        }
        found = {chunk: slices for chunk, slices in found.items() if slices}
        levels = [prefixes.sides(list(by), _pairs(list(by.values()))) for by in found.values()]
        self.least = next(iter(found))
        self._levels = chunks.sides(list(found), _pairs(levels))
        self._axes = [axis.xs for axis in axes[:3]]

    def read(
        self,
        chunk: float,
        prefix: float,
        decodes: float,
        context: float,
        at_context: int,
        longest: float,
        at_longest: int,
    ) -> tuple[float, float, int]:
        """The values at *context* and at *longest*, and the worst grade of both.

        Args:
            at_context, at_longest: `bisect_right` of these in the points of all slices.
        """
        chunks, prefixes, numbers = self._axes
        at_prefix, at_number = bisect_right(prefixes, prefix), bisect_right(numbers, decodes)
        uneven = longest != context
        levels, point, gap, known = self._levels[bisect_right(chunks, chunk)]
        share, step = (chunk - point) / gap, 1.0
        code = known if chunk != point else MEASURED
        rows = columns = None
        low = high = 0.0
        for level in levels:
            slices, point, gap, known = level[at_prefix]
            part, move = (prefix - point) / gap, 1.0
            if known > code and prefix != point:
                code = known
            mean = most = 0.0
            for one in slices:
                if one.rows is not rows:
                    rows = one.rows
                    i, point, gap, known = rows[at_number]
                    x = (decodes - point) / gap
                    if known > code and decodes != point:
                        code = known
                if one.columns is not columns:
                    columns = one.columns
                    j, point, gap, known = columns[at_context]
                    y = (context - point) / gap
                    if known > code and context != point:
                        code = known
                    if uneven:
                        k, point, gap, known = columns[at_longest]
                        z = (longest - point) / gap
                        if known > code and longest != point:
                            code = known
                cells = one.cells[i]
                near, rise, far, growth = cells[j]
                near += y * rise
                mean += move * (near + x * (far + y * growth - near) - mean)
                if uneven:
                    near, rise, far, growth = cells[k]
                    near += z * rise
                    most += move * (near + x * (far + z * growth - near) - most)
                if one.codes:
                    code = max(code, one.worst(i, x, j, y), one.worst(i, x, k, z) if uneven else 0)
                if not part:
                    break
                move = part
            low += step * (mean - low)
            high += step * (most - high)
            if not share:
                break
            step = share
        return low, high if uneven else low, code


class _Held:
    """A full grid of sequences and contexts at one chunk and prefix; held at its edges.

    Where a number of sequences lacks a context, its line is interpolated there.
    """

    __slots__ = ("cells", "codes", "columns", "least", "rows")

    def __init__(
        self, points: Iterable[tuple[tuple[float, float], float, int]], axes: Sequence[_Axis]
    ) -> None:
        groups: dict[float, list[tuple[float, float, int]]] = {}
        for (decodes, context), value, code in points:
            groups.setdefault(decodes, []).append((context, value, code))
        numbers = sorted(groups)
        contexts = sorted({context for found in groups.values() for context, _, _ in found})
        grid = [_row(groups[x], contexts) for x in numbers]
        values = [[value for value, _ in row] for row in grid]
        rises = [[*(high - low for low, high in pairwise(row)), 0.0] for row in values]
        after = [*range(1, len(grid)), 0]  # the last is held, so what comes after has no weight
        #: by number of sequences and context
        self.cells: list[list[_Cell]] = [
            list(zip(values[i], rises[i], values[j], rises[j], strict=True))
            for i, j in enumerate(after)
        ]
        self.codes = [[code for _, code in row] for row in grid]
        if not any(map(any, self.codes)):
            self.codes = []  # all measured, which is most often so
        self.rows, self.columns = axes[2].places(numbers), axes[3].places(contexts)
        self.least = max(min(found)[0] for found in groups.values())

    def worst(self, row: int, x: float, column: int, y: float) -> int:
        """The worst grade of the points around a place."""
        rows = self.codes[row : row + 1 + (x > 0)]
        return max(max(codes[column : column + 1 + (y > 0)]) for codes in rows)


def _row(found: list[tuple[float, float, int]], contexts: list[float]) -> list[Value]:
    """The values of one number of sequences at *contexts*."""
    if len(found) == len(contexts):
        return [(value, code) for _, value, code in sorted(found)]
    line = Line(found)
    return [line.clamped(x) for x in contexts]


def _pairs(found: Sequence[_T]) -> list[Sequence[_T]]:
    """Each with the next one, the last alone."""
    return [found[i : i + 2] for i in range(len(found))]
