"""Attention of a step over all layers: one kernel for all of it, or one for each kind."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from .base import Contexts
from .grades import DATASHEET, EXTRAPOLATED
from .grids import Slices, Value
from .mixed import Mixed
from .roofline import Roofline
from .uneven import Alphas, matters

Term: TypeAlias = tuple[str, float, int]  #: a share of attention: operation, ps, grade


class Attention(Protocol):
    """Attention of a step over all layers."""

    launches: int
    decode_op: str
    alphas: Alphas | None  #: what uneven contexts add; None: nothing is known of it

    def decode(self, decodes: int, context: float) -> Value:
        """*decodes* sequences alone that read *context* KV tokens together."""

    def knots(self, decodes: int) -> list[float]:
        """KV tokens, summed, at which `decode` bends."""

    def tail(self, decodes: int) -> float:
        """Picoseconds per KV token beyond the last knot."""

    def chunk(self, tokens: int, before: int) -> Value:
        """A chunk of a prompt alone."""

    def terms(
        self,
        prefills: tuple[tuple[int, int], ...],
        decodes: int,
        context: int,
        contexts: Contexts,
    ) -> list[Term]:
        """The attention of a step with at least one chunk."""


class SeparateAttention:
    """A kernel for the decodes, and one for the chunks, each chunk for itself."""

    decode_op = "decode_attention"
    alphas: Alphas | None = None

    def __init__(
        self,
        decode: Slices | None,
        prefill: Slices | None,
        roofline: Roofline,
        launches: int,
        factors: tuple[float, float],
    ) -> None:
        self._slices, self._prefill, self._roofline = decode, prefill, roofline
        self.launches = launches
        self._rates = roofline.decode_attention
        self._decode_factor, self._prefill_factor = factors

    def decode(self, decodes: int, context: float) -> Value:
        if self._slices is not None:
            return self._slices.at(decodes, context / decodes)
        full, limited, limit = self._rates
        ps = full * context + limited * min(context, decodes * limit)
        return ps * self._decode_factor, DATASHEET

    def knots(self, decodes: int) -> list[float]:
        if self._slices is not None:
            return slice_knots(self._slices, decodes)
        return [float(decodes * self._rates[2])] if self._rates[1] else [0.0]

    def tail(self, decodes: int) -> float:
        if self._slices is not None:
            return slice_tail(self._slices, decodes)
        return self._rates[0] * self._decode_factor

    def chunk(self, tokens: int, before: int) -> Value:
        if self._prefill is not None:
            return self._prefill.at(tokens, before)
        return self._roofline.chunk_ps(tokens, before) * self._prefill_factor, DATASHEET

    def terms(
        self,
        prefills: tuple[tuple[int, int], ...],
        decodes: int,
        context: int,
        contexts: Contexts,
    ) -> list[Term]:
        found = [("prefill_attention", *self.chunk(*chunk)) for chunk in prefills]
        if decodes:
            found.append(("decode_attention", *self.decode(decodes, context)))
        return found


class MixedAttention:
    """One kernel: its table has one chunk, so of several the largest stands there.

    The others add what a chunk adds to a kernel that runs anyway: its own time alone, less that of
    the smallest chunk of the table, which is the price of a launch. On the recorded vLLM 0.19 run
    (RTX 4090, `benchmarks/real_run.py`) all ways of doing it lie within a point: TTFT mean comes
    out .4 % longer with one chunk of all tokens, 1.0 % with what each adds beside the decodes.
    """

    decode_op = "attention"

    def __init__(self, mixed: Mixed, launches: int, alphas: Alphas | None) -> None:
        self._mixed, self.launches, self.alphas = mixed, launches, alphas
        smallest = mixed.prefill.xs[0]
        self._launch = mixed.prefill.at(smallest, 0)[0]

    def decode(self, decodes: int, context: float) -> Value:
        return self._mixed.decode.at(decodes, context / decodes)

    def knots(self, decodes: int) -> list[float]:
        return slice_knots(self._mixed.decode, decodes)

    def tail(self, decodes: int) -> float:
        return slice_tail(self._mixed.decode, decodes)

    def chunk(self, tokens: int, before: int) -> Value:
        return self._mixed.prefill.at(tokens, before)

    def terms(
        self,
        prefills: tuple[tuple[int, int], ...],
        decodes: int,
        context: int,
        contexts: Contexts,
    ) -> list[Term]:
        if len(prefills) == 1:
            ((chunk, before),) = prefills
            return [("attention", *self._beside(chunk, before, decodes, context, contexts))]
        # by pairs of query and key (`grids.pairs`), most first
        ranked = sorted([(-(new * (old + (new + 1) / 2)), new, old) for new, old in prefills])
        _, chunk, before = ranked[0]
        found = [("attention", *self._beside(chunk, before, decodes, context, contexts))]
        alone, launch = self._mixed.prefill.at, self._launch
        for _, chunk, before in ranked[1:]:
            ps, grade = alone(chunk, before)
            found.append(("attention", max(0.0, ps - launch), grade))
        return found

    def _beside(
        self, chunk: int, before: int, decodes: int, context: int, contexts: Contexts
    ) -> Value:
        """A chunk, and the decodes beside it."""
        if not decodes:
            return self._mixed.prefill.at(chunk, before)
        mean = context / decodes
        if self.alphas is None or not matters(decodes, contexts):
            ps, _, grade = self._mixed.beside(chunk, before, decodes, mean, mean)
            return ps, grade
        ps, most, grade = self._mixed.beside(chunk, before, decodes, mean, contexts[1])
        alpha = self.alphas.mixed(chunk, before, decodes, context, contexts)
        return max(0.0, ps + alpha * (most - ps)), grade


def slice_knots(slices: Slices, decodes: int) -> list[float]:
    """Where decode attention of *decodes* sequences bends, in KV tokens of all of them."""
    low, high, share = slices.around(decodes)
    xs = sorted({*low.xs, *high.xs}) if share else low.xs
    return [x * decodes for x in xs]


def slice_tail(slices: Slices, decodes: int) -> float:
    """Picoseconds per KV token beyond the last of `slice_knots`."""
    last = slice_knots(slices, decodes)[-1] / decodes
    value, grade = slices.at(decodes, 2 * last)
    assert grade >= EXTRAPOLATED
    return (value - slices.at(decodes, last)[0]) / (last * decodes)
