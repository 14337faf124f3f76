"""How alike two loads over time are: Pearson's correlation at the measured samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from .measured import Floats, Series

#: quantity -> whether its correlation can fail a check. The waiting line correlates at .98 even
#: where E2E is 15 % off, so it proves nothing.
GATED = {"running": True, "kv": True, "waiting": False}


def compare(measured: Series | None, simulated: Series | None) -> dict[str, Any]:
    """Correlation and both curves of each quantity that both have; empty without series."""
    if measured is None or simulated is None:
        return {}
    found = {}
    for name, gated in GATED.items():
        theirs, ours = getattr(measured, name), getattr(simulated, name)
        if theirs is None or ours is None:
            continue
        mine = held(simulated.t_s, ours, measured.t_s)
        found[name] = {
            "correlation": correlation(theirs, mine),
            "gated": gated,
            "measured_mean": float(theirs.mean()),
            "simulated_mean": float(mine.mean()),
            "t_s": measured.t_s.tolist(),
            "measured": theirs.tolist(),
            "simulated": mine.tolist(),
        }
    return found


def held(t_s: Floats, values: Floats, at_s: Floats) -> Floats:
    """*values* at the times *at_s*: each sample holds until the next, 0 before and after."""
    index = np.searchsorted(t_s, at_s, "right") - 1
    inside = (index >= 0) & (at_s <= t_s[-1])
    return np.where(inside, values[np.maximum(index, 0)], 0.0)


def correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's r; None where one of them never changes."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
