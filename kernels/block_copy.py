"""Blocks of a cache copied inside it, gathered into a buffer, and scattered from one."""

from __future__ import annotations

import torch

from .work import Work


def reference(cache: torch.Tensor, pairs: torch.Tensor) -> None:
    """`copy_blocks` in plain torch."""
    scatter_reference(cache, pairs[:, 1], gather_reference(cache, pairs[:, 0]))


def gather_reference(cache: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """`gather_blocks` in plain torch."""
    return _bytes(cache)[ids].view(cache.dtype).view(-1, *cache.shape[1:])


def scatter_reference(cache: torch.Tensor, ids: torch.Tensor, blocks: torch.Tensor) -> None:
    """`scatter_blocks` in plain torch."""
    _bytes(cache)[ids] = _bytes(blocks)


def work(blocks: int, block_bytes: int) -> Work:
    """Of one launch: each block read once and written once."""
    return Work(flops=0, bytes=2 * blocks * block_bytes)


def _bytes(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.view(blocks.shape[0], -1).view(torch.uint8)
