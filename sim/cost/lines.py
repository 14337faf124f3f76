"""Decode lines of a batch: its time while contexts grow, between any two knots of a table."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import ceil
from typing import NamedTuple, TypeAlias

from .attention import Attention
from .base import DecodeLine
from .grades import DATASHEET, GRADES, LineDoubt
from .roofline import UNBOUNDED

Grades: TypeAlias = list[float]  #: picoseconds by grade
#: (factor, replay, least, after): step = max(factor * kernels + replay, least) + after, picoseconds
Rule: TypeAlias = tuple[float, float, float, float]


#: a piece (start, end, ps, slope), up to where its first line holds, that line, and the one above
_Known: TypeAlias = tuple[int, int, float, float, int, DecodeLine, DecodeLine]


class Piece(NamedTuple):
    """From KV token *start* to *end*: *ps* at the start, and *slope* for each more."""

    start: int
    end: int
    ps: float
    slope: float


class Curve:
    """Attention of a number of sequences alone, by the KV tokens that they read together.

    Attributes:
        starts, pieces, grades: between its knots.
        ahead: where the profile says what uneven contexts add: by the KV tokens that they would
            read were all as long as the longest: (from, to, alphas by bucket of `shares`, and of
            the piece there its start, ps and slope). `ahead_starts` are where they begin.
    """

    def __init__(self, attention: Attention, decodes: int) -> None:
        self.decodes = decodes
        edges = sorted({0, *(ceil(x) for x in attention.knots(decodes))})
        self.starts = edges
        self.pieces: list[tuple[int, int, float, float]] = []
        self.grades: list[int] = []
        for start, end in zip(edges, [*edges[1:], UNBOUNDED], strict=True):
            ps, _ = attention.decode(decodes, start)
            # the grade inside of a piece, not that of a point on its edge
            inside = start + 1 if end == UNBOUNDED else (start + end) / 2
            self.grades.append(attention.decode(decodes, inside)[1])
            if end == UNBOUNDED:
                slope = attention.tail(decodes)
            else:
                slope = (attention.decode(decodes, end)[0] - ps) / (end - start)
            self.pieces.append((start, end, ps, slope))
        self.ahead: list[tuple[int, int, list[float], int, float, float]] = []
        self.shares = attention.alphas.shares if attention.alphas else ()
        for over, most, alphas in attention.alphas.buckets(decodes) if attention.alphas else ():
            first, last = decodes * over + 1, decodes * most + 1
            for start, end, ps, slope in self.pieces:
                if first < end and start < last:
                    ends = max(first, start), min(last, end)
                    self.ahead.append((*ends, alphas, start, ps, slope))
        self.ahead_starts = [first for first, *_ in self.ahead]


class Batch:
    """The lines of a batch of decodes.

    Args:
        fixed: kernels that do not depend on contexts.
        host_grade: of the host's time.
        masks_ps: of the host's time, what is a datasheet's.
        masks_always: whether the masks are seen even where kernels take longer than the host.
    """

    def __init__(
        self,
        curve: Curve,
        rule: Rule,
        fixed: Grades,
        host_grade: int,
        masks_ps: float,
        masks_always: bool,
    ) -> None:
        self._curve, self._rule, self._fixed = curve, rule, fixed
        self._host_grade, self._masks_ps, self._masks_always = host_grade, masks_ps, masks_always
        self._starts = curve.starts
        self._rest = (sum(fixed), *rule)
        #: made where they are asked for: batches may differ in much that is not asked for
        self._known: list[_Known | None] = [None] * len(curve.pieces)

    def line(self, context: int) -> DecodeLine:
        """The line where all contexts are alike, equal to the table at its start."""
        i = bisect_right(self._starts, context) - 1
        _, _, _, _, cut, line, above = self._known[i] or self._know(i)
        return line if context < cut else above

    def uneven_line(self, context: int, shortest: int, longest: int) -> DecodeLine:
        """The line where contexts differ: they keep their distances, so the longest grows as all.

        It is a function of these distances and of the pieces that *context* lies in alone.
        """
        i = bisect_right(self._starts, context) - 1
        at, end, ps, slope, cut, line, above = self._known[i] or self._know(i)
        curve = self._curve
        least, total = curve.decodes * shortest, curve.decodes * longest
        ahead = total - context
        first, last, alphas, begin, high, rise = curve.ahead[
            bisect_right(curve.ahead_starts, total) - 1
        ]
        alpha = alphas[bisect_left(curve.shares, (context - least) / (total - least))]
        if first > at + ahead:
            ps += slope * (first - ahead - at)
            at = first - ahead
        if last < end + ahead:
            end = last - ahead
        ps += alpha * (high + rise * (at + ahead - begin) - ps)
        slope += alpha * (rise - slope)
        if slope < 0.0:
            slope = 0.0
        fixed, factor, replay, host, after = self._rest
        ps = fixed + ps if ps > 0.0 else fixed
        kernels = factor * ps + replay
        if kernels >= host:  # as most often
            ps, slope = kernels + after, factor * slope
        else:
            parts = _bent(self._rule, Piece(at, end, ps, slope))
            at, end, ps, slope = next(part for part in parts if context < part.end)
        slope_ps = round(slope)
        base_ps = (round(ps) or 1) - slope_ps * at
        doubt = line.doubt if context < cut else above.doubt
        # as `DecodeLine(...)`, at half its price: every leap of uneven contexts has one of its own
        return tuple.__new__(DecodeLine, (base_ps, slope_ps, end, doubt))

    def _know(self, i: int) -> _Known:
        """The lines of a piece."""
        start, end, ps, slope = piece = self._curve.pieces[i]
        parts = _bent(self._rule, Piece(start, end, ps + self._rest[0], slope))
        lines = [self._line(self._curve.grades[i], part) for part in parts]
        self._known[i] = found = (*piece, lines[0].until, lines[0], lines[-1])
        return found

    def _line(self, grade: int, piece: Piece) -> DecodeLine:
        factor, replay, least, after = self._rule
        slope_ps = round(piece.slope)
        base_ps = max(1, round(piece.ps)) - slope_ps * piece.start
        base, host = [0] * len(GRADES), self._host_grade
        waits = piece.ps <= least + after
        if waits:
            base[host] = base_ps
        else:
            for i, ps in enumerate(self._fixed):
                base[i] = round(ps)
            over = (factor - 1) * piece.ps / factor + replay + after
            base[host] += round(over)
            base[grade] += base_ps - sum(base)
        if self._masks_ps and (waits or self._masks_always):
            guessed = min(round(self._masks_ps), base[host])
            base[host] -= guessed
            base[DATASHEET] += guessed
        return DecodeLine(base_ps, slope_ps, piece.end, LineDoubt(base, grade))


def _bent(rule: Rule, kernels: Piece) -> list[Piece]:
    """The step where its kernels are *kernels*, cut where the host stops mattering."""
    start, end, ps, slope = kernels
    factor, replay, least, after = rule
    first, growth = factor * ps + replay, factor * slope
    if first >= least:
        return [Piece(start, end, first + after, growth)]
    cut = start + ceil((least - first) / growth) if growth > 0 else end
    if cut >= end:
        return [Piece(start, end, least + after, 0.0)]
    at_cut = first + growth * (cut - start) + after
    return [Piece(start, cut, least + after, 0.0), Piece(cut, end, at_cut, growth)]
