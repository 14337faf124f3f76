"""The roofline of a matrix product y[m, n] = x[m, k] @ w[k, n].

Terms: arithmetic, bent by waves of 128 x 128 tiles and by rows padded to 64; bytes, bent where
everything fits into the L2 cache; and the latency of one tile's walk along k, which is what a
product too small to fill the GPU takes.
"""

from __future__ import annotations

import numpy as np

from .physics import Columns, Device, Physics, log, log2, nothing, padded, side_by_side

_TILE = 128
_ROW_TILE = 64
_STEP_S = 1e-9  #: one step along k, before it is fitted
#: start, sharpness; inefficiencies of arithmetic, bytes, walk; waves, padding, cache
START = (float(np.log(3e-6)), 1.0, 0.3, 0.2, 0.0, 0.5, 0.5, 0.0)


def terms(columns: Columns, device: Device) -> Physics:
    """Physics of products with columns m, n, k and weight_bytes (per weight; inputs are half)."""
    m, n, k = columns["m"], columns["n"], columns["k"]
    weights = n * k * columns["weight_bytes"]
    arithmetic = 2 * m * n * k / device.flops
    moved = weights + 2 * (m * k + m * n)
    tiles = np.ceil(m / _TILE) * np.ceil(n / _TILE)
    waves = np.ceil(tiles / device.sms) * device.sms / tiles
    row_padding = padded(m, _ROW_TILE) / m
    cached = 1 / (1 + (moved / device.l2_bytes) ** 4) if device.l2_bytes else np.zeros(len(m))
    full = tiles >= device.sms
    return Physics(
        side_by_side(log(arithmetic), log(moved / device.bytes_per_s), log(k * _STEP_S)),
        (
            side_by_side(
                np.where(full, np.log(waves), 0.0), np.where(full, np.log(row_padding), 0.0)
            ),
            side_by_side(cached),
            nothing(len(m)),
        ),
        side_by_side(
            log2(m),
            log2(n),
            log2(k),
            3 * np.log2(row_padding),
            np.where(full, np.log2(waves), 0.0),
            log2(columns["weight_bytes"]),
        ),
        np.maximum(arithmetic, weights / device.bytes_per_s),
    )
