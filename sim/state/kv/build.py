"""Which KV pool a replica gets."""

from __future__ import annotations

from ....policies.eviction.base import Eviction
from ..config import EngineLimits
from .blocks import BlockPool
from .face import KVPool


def make_pool(limits: EngineLimits, eviction: Eviction) -> KVPool:
    """A pool for these limits that lets blocks go as *eviction* says."""
    return BlockPool(
        limits.kv_blocks, limits.block_size, eviction, caching=limits.prefix_caching
    )
