"""KV blocks in host memory: a second set of tensors, and the copies between the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from .kv import KVCache

Moves: TypeAlias = list[tuple[int, int]]
_cuda: Any = torch.cuda  # untyped in places


class TierStore:
    """Slots in host memory, pinned where the device is a GPU.

    On a GPU copies run on a stream of their own. Blocks that are written out are gathered on the
    stream of the steps first, so the steps that follow may overwrite them at once.

    Args:
        slots: how many blocks it holds.
    """

    def __init__(self, kv: KVCache, slots: int, device: torch.device) -> None:
        self._kv, self._device = kv, device
        keys = kv.keys[0]
        shape = (slots, len(kv.keys), 2, *keys.shape[1:])
        cuda = device.type == "cuda"
        self._held = torch.zeros(shape, dtype=keys.dtype, pin_memory=cuda)
        self._stream: Any = _cuda.Stream(device) if cuda else None

    @staticmethod
    def size_bytes(kv: KVCache, slots: int) -> int:
        """Host memory that the slots take."""
        keys = kv.keys[0]
        return slots * len(kv.keys) * 2 * keys[0].numel() * keys.element_size()

    def keep(self, moves: Moves) -> None:
        """Copy blocks to slots: (block, slot) each; after all steps launched so far."""
        blocks, slots = _columns(moves)
        content = self._kv.read(blocks.to(self._device))
        content = content.movedim(2, 0)  # [n, layers, 2, ...]
        if self._stream is None:
            self._held[slots] = content
            return
        staged = content.contiguous()
        self._stream.wait_stream(_cuda.current_stream(self._device))
        with _cuda.stream(self._stream):
            staged.record_stream(self._stream)
            for i, slot in enumerate(slots.tolist()):
                self._held[slot].copy_(staged[i], non_blocking=True)

    def fetch(self, moves: Moves) -> Callable[[], bool]:
        """Copy slots to blocks: (slot, block) each; the result says whether they are there."""
        slots, blocks = _columns(moves)
        if self._stream is None:
            self._kv.write(blocks, self._held[slots].movedim(0, 2))
            return lambda: True
        self._stream.wait_stream(_cuda.current_stream(self._device))
        with _cuda.stream(self._stream):
            shape = (len(moves), *self._held.shape[1:])
            staged = torch.empty(shape, dtype=self._held.dtype, device=self._device)
            for i, slot in enumerate(slots.tolist()):
                staged[i].copy_(self._held[slot], non_blocking=True)
            self._kv.write(blocks.to(self._device), staged.movedim(0, 2))
            event: Any = _cuda.Event()
            event.record(self._stream)
        return lambda: bool(event.query())

    def restore(self, moves: Moves) -> None:
        """As `fetch`; every step launched from here on finds them there."""
        self.fetch(moves)
        if self._stream is not None:
            _cuda.current_stream(self._device).wait_stream(self._stream)


def _columns(moves: Moves) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.tensor(moves, dtype=torch.int64)
    return both[:, 0], both[:, 1]
