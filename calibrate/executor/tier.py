"""KV blocks in host memory: a second set of tensors, and the copies between the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .kv import KVCache
from .staging import staged

Moves: TypeAlias = list[tuple[int, int]]
Ids: TypeAlias = NDArray[np.int64]
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
        content = self._kv.read(self._sent(blocks))
        content = content.movedim(2, 0)  # [n, layers, 2, ...]
        if self._stream is None:
            self._held[torch.from_numpy(slots)] = content
            return
        gathered = content.contiguous()
        self._stream.wait_stream(_cuda.current_stream(self._device))
        with _cuda.stream(self._stream):
            gathered.record_stream(self._stream)
            for i, slot in enumerate(slots.tolist()):
                self._held[slot].copy_(gathered[i], non_blocking=True)

    def fetch(self, moves: Moves) -> Callable[[], bool]:
        """Copy slots to blocks: (slot, block) each; the result says whether they are there."""
        slots, blocks = _columns(moves)
        if self._stream is None:
            content = self._held[torch.from_numpy(slots)]
            self._kv.write(torch.from_numpy(blocks), content.movedim(0, 2))
            return lambda: True
        self._stream.wait_stream(_cuda.current_stream(self._device))
        with _cuda.stream(self._stream):
            shape = (len(moves), *self._held.shape[1:])
            arrived = torch.empty(shape, dtype=self._held.dtype, device=self._device)
            for i, slot in enumerate(slots.tolist()):
                arrived[i].copy_(self._held[slot], non_blocking=True)
            self._kv.write(self._sent(blocks), arrived.movedim(0, 2))
            event: Any = _cuda.Event()
            event.record(self._stream)
        return lambda: bool(event.query())

    def _sent(self, ids: Ids) -> torch.Tensor:
        """*ids* on the device; the host does not wait for the steps that are under way there."""
        return staged(ids, self._device).to(self._device, non_blocking=True)

    def restore(self, moves: Moves) -> None:
        """As `fetch`; every step launched from here on finds them there."""
        self.fetch(moves)
        if self._stream is not None:
            _cuda.current_stream(self._device).wait_stream(self._stream)


def _columns(moves: Moves) -> tuple[Ids, Ids]:
    both = np.array(moves, dtype=np.int64)
    return both[:, 0].copy(), both[:, 1].copy()
