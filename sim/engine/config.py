"""How far a simulated run is, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from ...policies.types import Picoseconds


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        arrived, ended: requests.
        expected: how many will arrive; None where nobody knows.
        now_ps: simulated time.
    """

    arrived: int = 0
    ended: int = 0
    expected: int | None = None
    now_ps: Picoseconds = 0


@dataclass(slots=True)
class Effort:
    """What a run cost to simulate. Depends on leaps, so it is no part of the records.

    Attributes:
        steps: engine steps, all replicas.
        leapt_steps: of them, steps inside a leap after its first.
        events: callbacks of replicas.
        wall_s: seconds of real time.
    """

    steps: int = 0
    leapt_steps: int = 0
    events: int = 0
    wall_s: float = 0.0
