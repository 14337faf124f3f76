"""Which KV pool a replica gets."""

from __future__ import annotations

from ....policies.errors import InputError
from ....policies.eviction.base import Eviction
from ....policies.eviction.lru import Lru
from ..config import EngineLimits
from .blocks import BlockPool
from .extents import ExtentPool
from .face import KVPool
from .radix_pool import RadixPool


def make_pool(limits: EngineLimits, eviction: Eviction, *, runs: bool = True) -> KVPool:
    """A pool for these limits that lets blocks go as *eviction* says.

    Args:
        runs: keep runs of blocks where the policy allows it; False: block ids are needed.

    Raises:
        InputError: the policy ranks single blocks only, and the index is a tree.
    """
    if limits.prefix_index == "radix":
        if eviction.promise.queues and not getattr(eviction, "on_leaves", False):
            name = type(eviction).__name__
            raise InputError(
                f"{name} keeps queues of single blocks, and a radix tree evicts whole leaves",
                help="take another eviction, or prefix_index: hash-chain",
            )
        caching = limits.prefix_caching
        return RadixPool(
            limits.kv_blocks, limits.block_size, eviction, caching=caching, ids=not runs
        )
    if runs and type(eviction) is Lru:
        return ExtentPool(limits.kv_blocks, limits.block_size, caching=limits.prefix_caching)
    return BlockPool(limits.kv_blocks, limits.block_size, eviction, caching=limits.prefix_caching)
