"""Embeddings of images on a device, as the encoder cache of its replica says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .pictures import Pictures
from .staging import staged
from .tower import Tower


class Seen(NamedTuple):
    """What images give to a step.

    Attributes:
        rows: [n] of its tokens that they take.
        values: [projections, n, hidden]: the input there, and what is added after layer 1, 2, …
    """

    rows: torch.Tensor
    values: torch.Tensor


class Embeddings:
    """What was encoded here, or came from an encoder, by identifier.

    Args:
        tower: None: images are an error.
    """

    def __init__(self, tower: Tower | None, device: torch.device) -> None:
        self._tower, self._device = tower, device
        self._held: dict[int, torch.Tensor] = {}

    def see(self, pictures: Pictures) -> Seen | None:
        """Drop, encode, and gather what the step needs; None: nothing."""
        for identifier in pictures.drop:
            del self._held[identifier]
        for picture in pictures.encode:
            assert self._tower is not None
            self._held[picture.identifier] = self._tower.encode(picture)
        if not pictures.places:
            return None
        rows = np.concatenate([np.arange(p.row, p.row + p.tokens) for p in pictures.places])
        values = [
            self._held[p.identifier][:, p.offset : p.offset + p.tokens] for p in pictures.places
        ]
        sent = staged(rows, self._device).to(self._device, non_blocking=True)
        return Seen(sent, torch.cat(values, 1))

    def read(self, identifier: int) -> torch.Tensor:
        """[projections, tokens, hidden] of an image that is here."""
        return self._held[identifier]

    def write(self, identifier: int, content: torch.Tensor) -> None:
        """Keep what came from an encoder."""
        self._held[identifier] = content.to(self._device)
