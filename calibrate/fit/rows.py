"""The roofline of anything that goes over rows: norms, activations, sampling, copies."""

from __future__ import annotations

import numpy as np

from .physics import Columns, Device, Physics, log, log2, nothing, side_by_side

#: start, sharpness; inefficiencies of bytes, arithmetic
START = (float(np.log(2.5e-6)), 1.0, 0.1, 0.7)


def terms(columns: Columns, device: Device) -> Physics:
    """Physics of columns rows, row_bytes and row_flops (moved and done for each), fixed_bytes."""
    rows = columns["rows"]
    moved = rows * columns["row_bytes"] + columns["fixed_bytes"]
    arithmetic = rows * columns["row_flops"] / device.flops
    return Physics(
        side_by_side(log(moved / device.bytes_per_s), log(arithmetic)),
        (nothing(len(rows)), nothing(len(rows))),
        side_by_side(
            log2(rows),
            log2(columns["row_bytes"]),
            log2(columns["row_flops"]),
            log2(columns["fixed_bytes"]),
        ),
        arithmetic,
    )
