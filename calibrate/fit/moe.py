"""The roofline of a fused mixture of experts: gate_up, activation and down of the routed tokens.

Terms: arithmetic on rows padded to the tile of each expert; the weights of the experts that any
token chose; the rows in and out; and the walk of one tile along both products.
"""

from __future__ import annotations

import numpy as np

from .physics import Array, Columns, Device, Physics, log, log2, nothing, side_by_side

_TILE = 64
_STEP_S = 1e-9
#: start, sharpness; inefficiencies of arithmetic, weights, rows, walk; padding, skew; skew
START = (float(np.log(2e-5)), 1.0, 0.5, 0.2, 0.7, 0.5, 0.5, 0.0, 0.0)


def terms(columns: Columns, device: Device) -> Physics:
    """Physics of columns tokens, hidden, inter, experts, top_k, tp, ep, skew, weight_bytes.

    `inter` and `experts` are the model's, before tp and ep split them; `skew` is the exponent of
    the routing's power law, 0 for balanced routing.
    """
    hidden, width = columns["hidden"], columns["inter"] / columns["tp"]
    local = np.maximum(columns["experts"] / columns["ep"], 1)
    rows = columns["tokens"] * columns["top_k"] / columns["ep"]
    chosen = distinct(local, rows, columns["skew"])
    each = rows / chosen
    padded_rows = chosen * np.ceil(each / _TILE) * _TILE
    matrix = 3 * hidden * width
    arithmetic = 2 * np.maximum(rows, 0) * matrix / device.flops
    weights = chosen * matrix * columns["weight_bytes"] / device.bytes_per_s
    moved = rows * (2 * hidden + 3 * width) * 2 / device.bytes_per_s
    padding = np.log(padded_rows / rows)
    skew = columns["skew"]
    points = len(rows)
    return Physics(
        side_by_side(log(arithmetic), log(weights), log(moved), log((hidden + width) * _STEP_S)),
        (
            side_by_side(np.where(each >= _TILE, padding, 0.0), skew),
            side_by_side(skew),
            nothing(points),
            nothing(points),
        ),
        side_by_side(
            log2(columns["tokens"]),
            log2(each),
            log2(hidden),
            log2(columns["inter"]),
            log2(columns["experts"]),
            log2(columns["top_k"]),
            log2(columns["tp"]),
            log2(columns["ep"]),
            skew,
            log2(columns["weight_bytes"]),
        ),
        arithmetic,
    )


def distinct(experts: Array, rows: Array, skew: Array) -> Array:
    """Experts of this GPU that *rows* rows meet: all different if balanced, else by chance."""
    by_chance = experts * -np.expm1(rows * np.log1p(-1 / np.maximum(experts, 1.0 + 1e-9)))
    found = np.where(skew > 0, by_chance, np.minimum(experts, rows))
    return np.maximum(found, 1.0)
