"""The KV cache as tensors, indexed by the block ids of a `BlockPool`."""

from __future__ import annotations

import torch

from ...sim.cost.specs import ModelSpec


class KVCache:
    """Keys and values of every layer, block by block.

    Block 0 is nobody's: pools count from 1, and padding points there.

    Args:
        blocks: usable blocks, as `EngineLimits.kv_blocks`.

    Attributes:
        keys, values: per layer [blocks + 1, block_size, kv_heads, head_dim].
    """

    def __init__(
        self,
        spec: ModelSpec,
        blocks: int,
        block_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (blocks + 1, block_size, spec.kv_heads, spec.head_dim)
        layers = range(spec.layers)
        self.block_size = block_size
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]

    @staticmethod
    def size_bytes(spec: ModelSpec, blocks: int, block_size: int, dtype: torch.dtype) -> int:
        """What the tensors take."""
        numbers = 2 * spec.layers * block_size * spec.kv_heads * spec.head_dim
        return (blocks + 1) * numbers * dtype.itemsize

    def read(self, blocks: torch.Tensor) -> torch.Tensor:
        """[layers, 2, n, block_size, kv_heads, head_dim] of the blocks with ids *blocks* [n]."""
        parts = zip(self.keys, self.values, strict=True)
        return torch.stack([torch.stack((k[blocks], v[blocks])) for k, v in parts])

    def write(self, blocks: torch.Tensor, content: torch.Tensor) -> None:
        """Put *content*, as `read` gives it, into the blocks with ids *blocks* [n]."""
        for i, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            k[blocks] = content[i, 0].to(k.device, k.dtype)
            v[blocks] = content[i, 1].to(v.device, v.dtype)
