"""How fast the host is right now: what a little fixed work takes.

A core that another machine's work shares runs at half its speed, for tens of milliseconds or for
minutes, and no clock, counter of CPU time or count of stolen ticks tells; fixed work does. On the
virtual machine where it was tried, steps whose probes at both ends were fast took 1.03 times
(median) what the fastest repeat of the same step took, those with slow probes 1.4 times.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from math import log
from time import perf_counter_ns

BAND = 1.25  #: times, up to which two paces are the same
_TURNS = 400
_STEP = 1.05  # between the paces that `prevailing` tries
_NEARLY = 0.95  # as many: then the faster pace is taken


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
        pace_s: the slower of the probes before and after.
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


def prevailing(paces: Iterable[tuple[Hashable, float]]) -> float:
    """The pace at which most things were seen at least once; 0 where no pace is known.

    Where nearly as many were seen at a faster one, that.

    Args:
        paces: (thing, pace in s); paces that are not known are 0.
    """
    seen: dict[int, set[Hashable]] = {}
    for thing, pace_s in paces:
        if pace_s > 0:
            seen.setdefault(round(log(pace_s) / log(_STEP)), set()).add(thing)
    if not seen:
        return 0.0
    reach = int(log(BAND) / log(_STEP))
    counts = {at: _within(seen, range(at - reach, at + reach + 1)) for at in seen}
    enough = _NEARLY * max(counts.values())
    return float(_STEP ** min(at for at, count in counts.items() if count >= enough))


def _within(seen: dict[int, set[Hashable]], steps: Sequence[int]) -> int:
    return len(set().union(*(seen.get(at, ()) for at in steps)))
