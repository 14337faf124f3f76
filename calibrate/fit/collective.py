"""The roofline of an all-reduce: hops, bytes over the link, and their pipelining."""

from __future__ import annotations

import numpy as np

from .physics import Columns, Device, Physics, log, log2, nothing, side_by_side

_HOP_S = 1e-6
#: start, sharpness; inefficiencies of hops, bytes, pipelining; bytes by GPUs
START = (float(np.log(4e-6)), 0.5, 0.0, 0.3, 0.0, 0.0)


def terms(columns: Columns, device: Device) -> Physics:
    """Physics of columns bytes (of the message) and gpus.

    A ring sends the message 2 (n - 1) / n times. Cut into the best number of pieces it takes
    hops + bytes + 2 sqrt(hops * bytes), the last being what filling the pipeline costs.
    """
    size, gpus = columns["bytes"], columns["gpus"]
    over_link = 2 * (gpus - 1) / gpus * size / device.link_bytes_per_s
    hops = (gpus - 1) * _HOP_S
    return Physics(
        side_by_side(log(hops), log(over_link), log(np.sqrt(hops * over_link))),
        (nothing(len(size)), side_by_side(np.log2(gpus)), nothing(len(size))),
        side_by_side(log2(size), 3 * log2(gpus)),
        np.zeros(len(size)),
    )
