"""How fast the host is right now: what a little fixed work takes.

A core that another machine's work shares runs at half its speed, for tens of milliseconds or for
minutes, and no clock, counter of CPU time or count of stolen ticks tells; fixed work does. On the
virtual machine where it was tried, steps with a fast probe at both ends took 1.03 times (median)
what the fastest repeat of the same step took; docs/validate.md has the rest.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from math import log
from statistics import median
from time import perf_counter_ns

BAND = 1.25  #: times, up to which two paces are the same
_TURNS = 400
_STEP = 1.05  # between the paces that `prevailing` tries
_ENOUGH = 0.6  # of the things seen at any other pace: then the faster one is taken


def pace_ns() -> int:
    """Nanoseconds of work that is always the same, about 30 µs of plain Python."""
    begun = perf_counter_ns()
    total = 0
    for i in range(_TURNS):
        total += i & 7
    return perf_counter_ns() - begun


def pace_ps() -> int:
    """The same in picoseconds, as step logs count."""
    return 1000 * pace_ns()


class Paced(float):
    """Seconds, and how fast the host was meanwhile.

    Attributes:
        pace_s: as `pace_between` says.
    """

    pace_s: float

    @classmethod
    def of(cls, seconds: float, pace_s: float) -> Paced:
        """Both."""
        made = cls(seconds)
        made.pace_s = pace_s
        return made


def alike(pace_s: float, other_s: float) -> bool:
    """Whether both are known and no more than `BAND` apart."""
    return pace_s > 0 and other_s > 0 and 1 / BAND <= pace_s / other_s <= BAND


def pace_between(before_s: float, after_s: float) -> float:
    """The slower of two probes; 0, which is not known, where the speed changed between them."""
    return max(before_s, after_s) if alike(before_s, after_s) else 0.0


def prevailing(paces: Iterable[tuple[Hashable, float]]) -> float:
    """The fastest pace at which enough things were seen at least once; 0 where none is known.

    Enough is 0.6 of what was seen at any other: a free core is the same whenever it is free.

    Args:
        paces: (thing, pace in s); paces that are not known are 0.
    """
    seen: dict[int, set[Hashable]] = {}
    known = [(thing, pace_s) for thing, pace_s in paces if pace_s > 0]
    for thing, pace_s in known:
        seen.setdefault(round(log(pace_s) / log(_STEP)), set()).add(thing)
    if not seen:
        return 0.0
    reach = int(log(BAND) / log(_STEP))
    counts = {at: _within(seen, range(at - reach, at + reach + 1)) for at in seen}
    enough = _ENOUGH * max(counts.values())
    first = _STEP ** min(at for at, count in counts.items() if count >= enough)
    return _centre([pace_s for _, pace_s in known], first)


def _centre(paces: Sequence[float], first_s: float) -> float:
    """The median of what is alike, from *first_s* on upwards until it stays."""
    centre = first_s
    while (found := median(one for one in paces if alike(one, centre))) > centre:
        centre = found
    return centre


def _within(seen: dict[int, set[Hashable]], steps: Sequence[int]) -> int:
    return len(set().union(*(seen.get(at, ()) for at in steps)))
