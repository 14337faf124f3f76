"""The rooflines of attention over a KV cache: one token a sequence (decode), and chunks."""

from __future__ import annotations

import numpy as np

from .physics import Array, Columns, Device, Physics, log, log2, nothing, side_by_side

_QUERY_TILE = 128
_CTA_S = 27e-9  #: one sequence and KV head on an H100, before it is fitted
#: start, sharpness; inefficiencies of bytes, CTAs, arithmetic; cache, group; group
DECODE_START = (float(np.log(1e-5)), 1.0, 0.15, 0.0, 1.0, -0.2, 0.0, 0.0)
#: start, sharpness; inefficiencies of arithmetic, longest tile, bytes, tiles; waves
PREFILL_START = (float(np.log(1e-5)), 1.0, 0.5, 0.5, 0.2, 0.0, 0.5)


def decode_terms(columns: Columns, device: Device) -> Physics:
    """Physics of decode: columns batch, context (mean KV tokens), heads, kv_heads, head_dim.

    Terms: bytes of the KV cache, cheaper while they fit into L2 (tables measured by replaying one
    buffer show it); blocks of threads, one a sequence and KV head; arithmetic.
    """
    batch, context = columns["batch"], columns["context"]
    heads, kv_heads, width = columns["heads"], columns["kv_heads"], columns["head_dim"]
    keys = 2 * batch * context * kv_heads * width * columns["kv_bytes"]
    moved = keys + 4 * batch * heads * width
    arithmetic = 4 * batch * context * heads * width / device.flops
    group = np.log2(heads / kv_heads)
    cached = _fits(moved, device)
    blocks = batch * kv_heads
    waves = np.ceil(blocks / device.sms) * device.sms / blocks
    return Physics(
        side_by_side(log(moved / device.bytes_per_s), log(blocks * _CTA_S), log(arithmetic)),
        (side_by_side(cached), side_by_side(group), nothing(len(batch))),
        side_by_side(
            log2(batch),
            log2(context),
            log2(kv_heads),
            group,
            log2(width),
            log2(columns["kv_bytes"]),
            cached,
            np.minimum(np.log2(waves), 1.0),
        ),
        arithmetic,
    )


def prefill_terms(columns: Columns, device: Device) -> Physics:
    """Physics of causal chunks: columns batch, chunk, prefix, heads, kv_heads, head_dim.

    Terms: arithmetic on pairs of query and key, bent by waves of tiles of 128 queries; the longest
    tile, which is all there is while the GPU is not full; bytes; tiles.
    """
    batch, chunk, prefix = columns["batch"], columns["chunk"], columns["prefix"]
    heads, kv_heads, width = columns["heads"], columns["kv_heads"], columns["head_dim"]
    pairs = chunk * prefix + chunk * (chunk + 1) / 2
    arithmetic = 4 * batch * heads * width * pairs / device.flops
    keys = 2 * batch * (prefix + chunk) * kv_heads * width * columns["kv_bytes"]
    moved = keys + 4 * batch * chunk * heads * width
    tiles = batch * heads * np.ceil(chunk / _QUERY_TILE)
    longest = 4 * width * _QUERY_TILE * (prefix + chunk) / (device.flops / device.sms)
    waves = np.where(tiles >= device.sms, np.ceil(tiles / device.sms) * device.sms / tiles, 1.0)
    group = np.log2(heads / kv_heads)
    points = len(batch)
    return Physics(
        side_by_side(
            log(arithmetic), log(longest), log(moved / device.bytes_per_s), log(tiles * _CTA_S)
        ),
        (side_by_side(np.log(waves)), nothing(points), nothing(points), nothing(points)),
        side_by_side(
            log2(batch),
            log2(chunk),
            np.log2(prefix + 128),
            log2(heads),
            group,
            log2(width),
            log2(columns["kv_bytes"]),
            np.log2(waves),
        ),
        arithmetic,
    )


def _fits(moved: Array, device: Device) -> Array:
    if not device.l2_bytes:
        return np.zeros(len(moved))
    return 1 / (1 + (moved / (0.9 * device.l2_bytes)) ** 12)
