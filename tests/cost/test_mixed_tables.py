"""The compiled table of a mixed kernel beside a plain reading of its definition, bit for bit."""

from __future__ import annotations

import random
from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.calibrate.importers.llmservingsim import read
from infersim.sim.cost.grades import EXTRAPOLATED, INTERPOLATED, MEASURED
from infersim.sim.cost.grids import Line, rows_of
from infersim.sim.cost.mixed import Mixed

KERNELS = Path(__file__).parents[2].parent / "shared" / "reference" / "measured" / "kernels"
Row = tuple[tuple[float, ...], float, int]


class Plain:
    """One coordinate after the other, every neighbour evaluated where it is needed."""

    def __init__(self, rows: list[Row]) -> None:
        self.made = Mixed(rows)  # its pure parts are `Slices`, tested by themselves
        self.rows = [row for row in rows if row[0][0] and row[0][2]]
        self.ends = [max(at[i] for at, _, _ in self.rows) for i in range(4)]

    def slices(self, context: float) -> dict[tuple[float, float], dict[float, Line]]:
        """(chunk, prefix) -> sequences -> line, of slices that begin at *context* or below."""
        found: dict[tuple[float, float], dict[float, list[tuple[float, float, int]]]] = {}
        for (chunk, prefix, decodes, at), value, code in self.rows:
            lines = found.setdefault((chunk, prefix), {})
            lines.setdefault(decodes, []).append((at, value, code))
        lined = {
            key: {x: Line(points) for x, points in sorted(lines.items())}
            for key, lines in found.items()
        }
        least = {key: max(line.xs[0] for line in lines.values()) for key, lines in lined.items()}
        reach = max([b for b in least.values() if b <= context], default=min(least.values()))
        return {key: lines for key, lines in lined.items() if least[key] <= reach}

    def slice(self, lines: dict[float, Line], decodes: float, context: float) -> tuple[float, int]:
        """Sequences between two lines, each over the contexts of all of them."""
        columns = sorted({x for line in lines.values() for x in line.xs})

        def line(x: float) -> tuple[float, int]:
            return between(columns, context, lines[x].clamped)

        return between(list(lines), decodes, line)

    def at(self, chunk: float, prefix: float, decodes: float, context: float) -> tuple[float, int]:
        """As `Mixed.at`."""
        if not chunk or not decodes:
            return self.made.at(chunk, prefix, decodes, context)
        asked = (chunk, prefix, decodes, context)
        inside = tuple(map(min, asked, self.ends))
        value, code = self.inside(*inside)
        if inside != asked:
            code = EXTRAPOLATED
            alone, decode = self.made.prefill.at, self.made.decode.at
            value += alone(chunk, prefix)[0] - alone(*inside[:2])[0]
            value += decode(decodes, context)[0] - decode(*inside[2:])[0]
        return value, code

    def inside(
        self, chunk: float, prefix: float, decodes: float, context: float
    ) -> tuple[float, int]:
        slices = self.slices(context)
        chunks = sorted({chunk for chunk, _ in slices})

        def of_chunk(one: float) -> tuple[float, int]:
            prefixes = sorted(p for c, p in slices if c == one)
            return between(prefixes, prefix, lambda p: self.slice(slices[one, p], decodes, context))

        value, code = between(chunks, chunk, of_chunk)
        if chunk < chunks[0]:
            low, worst = self.made.decode.at(decodes, context)
            value, code = low + chunk / chunks[0] * (value - low), max(code, worst)
        return value, code


def between(xs, x, at):  # type: ignore[no-untyped-def]
    """Linear between the neighbours of *x* on an axis, held outside of it."""
    i = bisect_left(xs, x)
    if i == len(xs) or (not i and xs[0] != x):
        value, code = at(xs[min(i, len(xs) - 1)])
        return value, max(code, EXTRAPOLATED)
    if xs[i] == x:
        return at(xs[i])
    (low, worst), (high, worse) = at(xs[i - 1]), at(xs[i])
    share = (x - xs[i - 1]) / (xs[i] - xs[i - 1])
    return low + share * (high - low), max(worst, worse, INTERPOLATED)


AXES = ((8, 16, 64, 256), (0, 32, 512), (1, 2, 8, 32), (16, 64, 1024, 4096))


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Ragged grids: slices that lack contexts, begin late, or are not there at all."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    grades = [MEASURED] * 6 + [INTERPOLATED, EXTRAPOLATED] * draw(st.booleans())
    rows: list[Row] = []
    for chunk in AXES[0]:
        for prefix in AXES[1]:
            if rng.random() < 0.2:
                continue
            begin = rng.choice((0, 0, 0, 2))
            for decodes in AXES[2]:
                for context in AXES[3][begin:]:
                    if context in (16, 1024) or rng.random() < 0.8:
                        at = (float(chunk), float(prefix), float(decodes), float(context))
                        rows.append((at, rng.uniform(1, 1e9), rng.choice(grades)))
    rows = rows or [((8.0, 0.0, 1.0, 16.0), 5.0, MEASURED)]
    rows += [((0.0, 0.0, float(d), float(k)), d * k * 7.0, 0) for d in AXES[2] for k in AXES[3]]
    rows += [
        ((float(c), float(p), 0.0, 0.0), c * (p + c) * 3.0, 0) for c in AXES[0] for p in AXES[1]
    ]
    return rows


def coordinate(points: tuple[int, ...], most: int) -> st.SearchStrategy[float]:
    return st.one_of(st.sampled_from(points).map(float), st.integers(1, most).map(float))


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_the_compiled_table_is_its_definition(rows: list[Row], data: st.DataObject) -> None:
    made, plain = Mixed(rows), Plain(rows)
    for _ in range(8):
        asked = (
            data.draw(coordinate(AXES[0], 400)),
            data.draw(coordinate(AXES[1], 700)),
            data.draw(coordinate(AXES[2], 50)),
            data.draw(st.one_of(coordinate(AXES[3], 6000), st.floats(1, 6000))),
        )
        assert made.at(*asked) == plain.at(*asked)
        longest = max(asked[3], data.draw(coordinate(AXES[3], 6000)))
        assert made.beside(*asked, longest) == both(plain, asked, longest)


def both(plain: Plain, asked: tuple[float, ...], longest: float) -> tuple[float, float, int]:
    """Two look-ups, as if nothing were shared."""
    (value, code), (most, worst) = plain.at(*asked), plain.at(*asked[:3], longest)
    return value, most, max(code, worst)


@pytest.mark.skipif(not KERNELS.is_dir(), reason="needs the measured tables in shared/")
@pytest.mark.parametrize("card", ["rtx4090", "rtxpro6000"])  # one grid, and two merged ones
def test_published_tables_are_read_alike(card: str) -> None:
    table = read(KERNELS / f"{card}_meta-llama_llama-3.1-8b").table("attention")
    assert table is not None
    rows, rng = rows_of(table), random.Random(1)
    made, plain = Mixed(rows), Plain(rows)
    for _ in range(8):
        chunk, decodes = rng.randint(1, 2300), rng.randint(1, 280)
        asked = (chunk, rng.choice((0, rng.randint(0, 9000))), decodes, rng.uniform(10, 9000))
        assert made.at(*asked) == plain.at(*asked)
        longest = int(asked[3] * rng.uniform(1, 4)) + 1
        assert made.beside(*asked, longest) == both(plain, asked, longest)
