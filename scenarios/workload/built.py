"""A workload ready to run: what every ``spec.build`` hands to the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...policies.errors import InputError
from ...policies.types import PS_PER_S
from ...sim.state.session import Arrival

LONGEST_S = 9_000_000  #: the clock counts picoseconds in 63 bits: 106 days


def picoseconds(seconds: float) -> int:
    """Seconds on the simulator's clock.

    Raises:
        InputError: further away than the clock reaches.
    """
    if seconds > LONGEST_S:
        raise InputError(
            f"{seconds:,.0f} s lie beyond the simulator's clock ({LONGEST_S:,} s, 104 days)",
            help="scale the times down, or take a part of the trace",
        )
    return round(seconds * PS_PER_S)


@dataclass(slots=True)
class BuiltWorkload:
    """Implements `sim.state.session.Workload`; its arrivals can be taken once.

    Attributes:
        stream: arrivals in order of time.
        resources: slots by name.
        closed_loop: later calls depend on earlier answers.
        expected_requests: about how many calls there will be; None where nothing says.
        notes: what the reader of the report must know of it.
    """

    stream: Iterable[Arrival]
    closed_loop: bool
    expected_requests: int | None = None
    resources: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def arrivals(self) -> Iterator[Arrival]:
        """In order of time."""
        return iter(self.stream)
