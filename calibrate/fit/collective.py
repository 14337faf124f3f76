"""The roofline of an all-reduce: hops, and bytes over the link (alpha-beta, smoothly joined)."""

from __future__ import annotations

import numpy as np

from .physics import Columns, Device, Physics, log, log2, nothing, side_by_side

_HOP_S = 1e-6
#: start, sharpness; hops, bytes; hops; bytes
START = (float(np.log(4e-6)), 0.5, 0.0, 0.3, 0.0)


def terms(columns: Columns, device: Device) -> Physics:
    """Physics of columns bytes (of the message) and gpus: a ring sends it 2 (n - 1) / n times."""
    size, gpus = columns["bytes"], columns["gpus"]
    over_link = 2 * (gpus - 1) / gpus * size / device.link_bytes_per_s
    return Physics(
        side_by_side(log((gpus - 1) * _HOP_S), log(over_link)),
        (nothing(len(size)), side_by_side(np.log2(gpus))),
        side_by_side(log2(size), 3 * log2(gpus)),
        np.zeros(len(size)),
    )
