"""Who was served how much, tenant by tenant."""

from __future__ import annotations

from typing import Any

import numpy as np

from .stats import Floats, ratio
from .window import Window

#: a token of an answer counts as so many of a prompt, as in VTC (OSDI'24)
OUTPUT_WEIGHT = 2.0


def jain(values: Floats) -> float | None:
    """Jain's index: 1 where all are equal, 1 / n where one has everything; None of nothing.

    Source: Jain, Chiu and Hawe 1984.
    """
    return ratio(float(values.sum()) ** 2, len(values) * float((values * values).sum()))


def fairness(window: Window) -> dict[str, Any] | None:
    """How evenly two or more tenants were served; None with fewer.

    Service is weighted tokens of what was finished before the last request arrived: later on
    everybody gets what they asked for.
    """
    tenants = np.unique(window.columns["tenant"].astype(str))
    if len(tenants) < 2:
        return None
    of = np.searchsorted(tenants, window.done("tenant").astype(str))
    early = window.done("finish_ps") <= window.columns["arrival_ps"].max()
    tokens = window.done("prompt_tokens") + OUTPUT_WEIGHT * window.done("output_tokens")
    counts = np.bincount(of, minlength=len(tenants))
    waits_s = window.between_s("arrival_ps", "first_token_ps")
    sums = np.bincount(of, weights=waits_s, minlength=len(tenants))
    service: Floats = np.zeros(len(tenants))
    np.add.at(service, of[early], tokens[early])
    return {
        "tenants": len(tenants),
        "jain_service": jain(service),
        "jain_ttft": jain(sums[counts > 0] / counts[counts > 0]),
    }
