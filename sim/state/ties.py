"""What comes first of things that happen at one instant, in every host.

Below `REPLICA` are clients: 0 what arrives or starts, 1 what goes on after a wait (SimPy's own
events have these two). Then the step boundaries of replica 0, 1, …, then samples. So ties never
depend on the order of insertion, which differs with leaps on and off.
"""

from __future__ import annotations

ARRIVAL = 0
RESUME = 1
REPLICA = 2
SAMPLE = 1 << 30
