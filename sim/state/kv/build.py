"""Which KV pool a replica gets."""

from __future__ import annotations

from ....policies.eviction.base import Eviction
from ....policies.eviction.lru import Lru
from ..config import EngineLimits
from .blocks import BlockPool
from .extents import ExtentPool
from .face import KVPool


def make_pool(limits: EngineLimits, eviction: Eviction, *, runs: bool = True) -> KVPool:
    """A pool for these limits that lets blocks go as *eviction* says.

    Args:
        runs: keep runs of blocks where the policy allows it; False: always block by block.
    """
    if runs and type(eviction) is Lru:
        return ExtentPool(limits.kv_blocks, limits.block_size, caching=limits.prefix_caching)
    return BlockPool(limits.kv_blocks, limits.block_size, eviction, caching=limits.prefix_caching)
