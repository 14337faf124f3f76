"""Decode lines of a batch: its time while contexts grow, between any two knots of a table."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil
from typing import NamedTuple, TypeAlias

from .attention import Attention
from .base import Contexts, DecodeLine
from .grades import DATASHEET, GRADES, LineDoubt
from .roofline import UNBOUNDED

Grades: TypeAlias = list[float]  #: picoseconds by grade
#: (factor, replay, least, after): step = max(factor * kernels + replay, least) + after, picoseconds
Rule: TypeAlias = tuple[float, float, float, float]


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
        ahead: where the profile says what uneven contexts add: what holds from a number of KV
            tokens on, if all contexts were as long as the longest: (from, to, alphas by share, the
            piece). `ahead_starts` are where it begins.
    """

    def __init__(self, attention: Attention, decodes: int) -> None:
        self.decodes, self.alphas = decodes, attention.alphas
        edges = sorted({0, *(ceil(x) for x in attention.knots(decodes))})
        self.starts = edges
        self.pieces: list[Piece] = []
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
            self.pieces.append(Piece(start, end, ps, slope))
        self.ahead: list[tuple[int, int, list[float], Piece]] = []
        for over, most, alphas in self.alphas.buckets(decodes) if self.alphas else ():
            first, last = decodes * over + 1, decodes * most + 1
            for piece in self.pieces:
                if first < piece.end and piece.start < last:
                    start, end = max(first, piece.start), min(last, piece.end)
                    self.ahead.append((start, end, alphas, piece))
        self.ahead_starts = [start for start, _, _, _ in self.ahead]


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
        self._fixed_ps = sum(fixed)
        self._host_grade, self._masks_ps, self._masks_always = host_grade, masks_ps, masks_always
        self._starts = curve.starts
        #: made where they are asked for: batches may differ in much that is not asked for
        self._lines: dict[int, list[DecodeLine]] = {}

    def line(self, context: int) -> DecodeLine:
        """The line where all contexts are alike, equal to the table at its start."""
        i = bisect_right(self._starts, context) - 1
        lines = self._lines.get(i) or self._made(i)
        return lines[0] if context < lines[0].until else lines[1]

    def uneven_line(self, context: int, contexts: Contexts) -> DecodeLine:
        """The line where contexts differ: they keep their distances, so the longest grows as all.

        It is a function of these distances and of the pieces that *context* lies in alone.
        """
        curve, doubt = self._curve, self.line(context).doubt
        decodes, alphas = curve.decodes, curve.alphas
        assert alphas is not None
        start, end, ps, slope = curve.pieces[bisect_right(curve.starts, context) - 1]
        total = decodes * contexts[1]
        ahead = total - context
        first, last, shares, longest = curve.ahead[bisect_right(curve.ahead_starts, total) - 1]
        alpha = shares[alphas.share(decodes, context, contexts)]
        begin, _, high, rise = longest
        at = max(start, first - ahead)
        end = min(end, last - ahead)
        ps += slope * (at - start)
        ps += alpha * (high + rise * (at + ahead - begin) - ps)
        slope += alpha * (rise - slope)
        ps, slope = self._fixed_ps + max(0.0, ps), max(0.0, slope)
        factor, replay, least, after = self._rule
        kernels = factor * ps + replay
        if kernels >= least:  # as most often
            ps, slope = kernels + after, factor * slope
        else:
            parts = _bent(self._rule, Piece(at, end, ps, slope))
            at, end, ps, slope = next(part for part in parts if context < part.end)
        slope_ps = round(slope)
        return DecodeLine(max(1, round(ps)) - slope_ps * at, slope_ps, end, doubt)

    def _made(self, i: int) -> list[DecodeLine]:
        """The line of a piece, or two where the host stops mattering within."""
        piece, grade = self._curve.pieces[i], self._curve.grades[i]
        whole = piece._replace(ps=piece.ps + self._fixed_ps)
        self._lines[i] = [self._line(grade, part) for part in _bent(self._rule, whole)]
        return self._lines[i]

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
