"""Compiled grids and lines of uneven contexts beside plain readings of their definitions: bits."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from itertools import pairwise
from math import ceil
from operator import add

from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.grades import EXTRAPOLATED, GRADES, INTERPOLATED, MEASURED
from infersim.sim.cost.grids import Line, pairs, prefill_slices
from infersim.sim.cost.profile import Host, Profile, Stamp, Table, Uneven
from infersim.sim.cost.tables import TableCost

Row = tuple[float, float, int]

# ---- grids --------------------------------------------------------------------------------------


def along(rows: list[Row], x: float, offset: float) -> tuple[float, int]:
    """What `Line` promises: linear between points, held below, in proportion beyond."""
    rows = sorted(rows)
    last, value, code = rows[-1]
    if x > last:
        factor = (x + offset) / (last + offset) if last + offset else 1.0
        return value * factor, max(code, EXTRAPOLATED)
    if x < rows[0][0]:
        return rows[0][1], max(rows[0][2], EXTRAPOLATED)
    for (low, value, code), (high, other, worse) in pairwise(rows):
        if low < x < high:
            share = (x - low) / (high - low)
            return value + share * (other - value), max(code, worse, INTERPOLATED)
    return next((value, code) for at, value, code in rows if at == x)


def prefill(rows: dict[int, list[Row]], chunk: int, prefix: int) -> tuple[float, int]:
    """What `Slices` promises: inside of slices first, then between them; beyond, by pairs."""
    xs = sorted(rows)

    def of(x: int) -> tuple[float, int]:
        return along(rows[x], prefix, (x + 1) / 2)

    if chunk > xs[-1]:
        value, code = of(xs[-1])
        factor = pairs(chunk, prefix) / pairs(xs[-1], prefix)
        return value * factor, max(code, EXTRAPOLATED)
    if chunk < xs[0]:
        value, code = of(xs[0])
        return value, max(code, EXTRAPOLATED)
    for low, high in pairwise(xs):
        if low < chunk < high:
            (value, code), (other, worse) = of(low), of(high)
            share = (chunk - low) / (high - low)
            return value + share * (other - value), max(code, worse, INTERPOLATED)
    return of(chunk)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_grids_are_their_definition(seed: int) -> None:
    rng = random.Random(seed)
    chunks = rng.sample(range(2, 400), rng.randint(1, 5))
    rows = {
        chunk: [
            (float(at), rng.uniform(0, 1e9), rng.choice((MEASURED, MEASURED, EXTRAPOLATED)))
            for at in rng.sample(range(500), rng.randint(1, 6))
        ]
        for chunk in chunks
    }
    made = prefill_slices(
        ((float(chunk), at), ps, code) for chunk, found in rows.items() for at, ps, code in found
    )
    line = Line(rows[chunks[0]], 3.5)
    for _ in range(20):
        chunk = rng.choice((rng.randint(2, 600), rng.choice(chunks)))
        points = [int(at) for at, _, _ in rows[chunks[0]]]
        prefix = rng.choice((rng.randint(0, 800), rng.choice(points)))
        assert made.at(chunk, prefix) == prefill(rows, chunk, prefix)
        assert line.at(prefix) == along(rows[chunks[0]], prefix, 3.5)


# ---- lines of uneven contexts -------------------------------------------------------------------

NUMBERS, CONTEXTS = (1.0, 4.0, 16.0), (16.0, 256.0, 1024.0, 4096.0)
ATTENTION = (
    *((0.0, 0.0, n, k, 1e-6 * (8 + n * k**0.9 / 100)) for n in NUMBERS for k in CONTEXTS),
    *((c, 0.0, 0.0, 0.0, 1e-6 * c) for c in (16.0, 64.0)),
    *((16.0, 0.0, n, k, 1e-6 * (9 + n * k**0.9 / 90)) for n in NUMBERS for k in CONTEXTS),
)
EDGES, SHARES, LONGEST = (2.0, 8.0, 64.0), (0.05, 0.4, 1.01), (300.0, 1024.0, 8192.0)
ALPHAS = {
    (n, share, most): 0.3 + 0.07 * n - 0.4 * share + 0.1 * most
    for n in range(3)
    for share in range(3)
    for most in range(2)  # the longest have the default
}
COST = TableCost(
    Profile(
        name="test",
        stamp=Stamp(origin="imported", gpu="rtx-4090"),
        model="llama-3.1-8b",
        dtype="bf16",
        kv_dtype="bf16",
        attention="mixed",
        tables=(
            Table(
                op="attention",
                times=32,
                by=("chunk", "prefix", "decodes", "context_tokens"),
                points=ATTENTION,
            ),
        ),
        host=Host(),
        uneven=Uneven(
            default=-0.05,
            sequences=EDGES,
            shares=SHARES,
            longest=LONGEST,
            prefixes=(0.0, 512.0),
            alphas=tuple((0.0, n, share, k, 0, alpha) for (n, share, k), alpha in ALPHAS.items()),
        ),
    ),
    model("llama-3.1-8b"),
    gpu("rtx-4090"),
)


def attention_at(decodes: int, tokens: int) -> tuple[int, int, float, float]:
    """Start and end of the knots around *tokens*; attention at the start, and its slope."""
    attention = COST.parts.attention
    edges = sorted({0, *(ceil(x) for x in attention.knots(decodes))})
    i = bisect_right(edges, tokens) - 1
    ps, end = attention.decode(decodes, edges[i])[0], 1 << 62
    if i + 1 == len(edges):
        return edges[i], end, ps, attention.tail(decodes)
    end = edges[i + 1]
    return edges[i], end, ps, (attention.decode(decodes, end)[0] - ps) / (end - edges[i])


def plain_line(contexts: list[int]) -> tuple[int, int, int]:
    """Base, slope and end: no host, so that a step is its kernels."""
    n, total, longest = len(contexts), sum(contexts), max(contexts)
    shares, bounds = SHARES[:-1], [0, *map(int, LONGEST[:-1]), 1 << 60]
    share = (total - n * min(contexts)) / (n * (longest - min(contexts)))
    bucket = bisect_left(bounds[1:-1], longest)
    alpha = ALPHAS.get((bisect_left(EDGES[:-1], n), bisect_left(shares, share), bucket), -0.05)
    ahead = n * longest - total
    start, end, ps, slope = attention_at(n, total)
    begin, stop, high, rise = attention_at(n, n * longest)
    at = max(start, begin - ahead, n * bounds[bucket] - ahead + 1)
    end = min(end, stop - ahead, n * bounds[bucket + 1] - ahead + 1)
    ps += slope * (at - start)
    ps += alpha * (high + rise * (at + ahead - begin) - ps)
    slope = max(0.0, slope + alpha * (rise - slope))
    grades = [0.0] * len(GRADES), [0.0] * len(GRADES)
    for into, parts in zip(grades, (COST.parts.tokens, COST.parts.samples), strict=True):
        for part in parts:
            found, code = part.at(n)
            into[code] += found
    duration = sum(map(add, *grades)) + max(0.0, ps)
    return max(1, round(duration)) - round(slope) * at, round(slope), end


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=2, max_size=24).filter(lambda x: len(set(x)) > 1))
def test_a_line_of_uneven_contexts_is_its_definition(contexts: list[int]) -> None:
    ends = min(contexts), max(contexts)
    base, slope, until, _ = COST.decode_line(len(contexts), sum(contexts), ends)
    assert (base, slope, until) == plain_line(contexts)
    assert until > sum(contexts)
