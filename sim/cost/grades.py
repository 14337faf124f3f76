"""How much of the simulated time is measured, and how much is not: exact sums over a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from ...policies.types import Picoseconds

#: how a time was come by, best first. transferred: from another shape or device; datasheet: from
#: the roofline
Grade: TypeAlias = Literal["measured", "interpolated", "extrapolated", "transferred", "datasheet"]
GRADES: tuple[Grade, ...] = (
    "measured",
    "interpolated",
    "extrapolated",
    "transferred",
    "datasheet",
)
#: their places in `GRADES`
MEASURED, INTERPOLATED, EXTRAPOLATED, TRANSFERRED, DATASHEET = range(len(GRADES))

#: picoseconds of one step by grade, in the order of `GRADES`
Split: TypeAlias = tuple[int, ...]


class LineDoubt:
    """The grades of a decode line: its base by grade, and the grade of all that grows.

    Compared by identity, so that a run may count under it what it sees again and again.
    """

    __slots__ = ("base", "base_ps", "grade")

    def __init__(self, base: Sequence[int], grade: int) -> None:
        self.base = tuple(base)
        self.base_ps = sum(base)
        self.grade = grade

    def add(self, steps: int, duration_ps: Picoseconds, into: list[int]) -> None:
        """Add *steps* steps on the line that lasted *duration_ps* together."""
        for i, ps in enumerate(self.base):
            into[i] += steps * ps
        into[self.grade] += duration_ps - steps * self.base_ps


Doubt: TypeAlias = LineDoubt | Split


def delayed(doubt: Doubt | None, delay_ps: Picoseconds) -> Doubt | None:
    """The grades of a step that is no line and begins *delay_ps* late, for a link's copies."""
    if not delay_ps or doubt is None:
        return doubt
    assert not isinstance(doubt, LineDoubt)
    return tuple(ps + delay_ps * (i == DATASHEET) for i, ps in enumerate(doubt))


class Ledger:
    """Simulated time by grade, of every step that says."""

    __slots__ = ("_lines", "_split")

    def __init__(self) -> None:
        self._split = [0] * len(GRADES)
        self._lines: dict[LineDoubt, list[int]] = {}

    def add(self, doubt: Doubt, steps: int, duration_ps: Picoseconds) -> None:
        """*steps* steps of the same line, or one of the split, lasted *duration_ps* together."""
        if isinstance(doubt, LineDoubt):
            entry = self._lines.get(doubt)
            if entry is None:
                self._lines[doubt] = [steps, duration_ps]
            else:
                entry[0] += steps
                entry[1] += duration_ps
        else:
            split = self._split
            for i, ps in enumerate(doubt):
                split[i] += ps

    def totals(self) -> dict[str, Picoseconds]:
        """Grade -> picoseconds, the grades that occur; their sum is the time of the steps."""
        found = list(self._split)
        for doubt, (steps, duration_ps) in self._lines.items():
            doubt.add(steps, duration_ps, found)
        return {grade: ps for grade, ps in zip(GRADES, found, strict=True) if ps}


def time_by_grade(ledgers: Iterable[Ledger]) -> dict[str, Picoseconds]:
    """Counters of a run: step time by grade, of the grades that occur."""
    found: Counter[str] = Counter()
    for ledger in ledgers:
        found.update(ledger.totals())
    return {f"{grade}_ps": found[grade] for grade in GRADES if found[grade]}
