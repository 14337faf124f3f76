"""Named random streams: each stochastic part owns one, so adding a part never shifts another."""

from __future__ import annotations

from hashlib import sha256

import numpy as np


class Streams:
    """Random generators spawned from one seed by name.

    >>> Streams(1).get("arrivals").integers(10) == Streams(1).get("arrivals").integers(10)
    np.True_
    """

    def __init__(self, seed: int, *within: str | int) -> None:
        self.seed, self._within = seed, within

    def part(self, *name: str | int) -> Streams:
        """The streams of a part that is made of parts itself."""
        return Streams(self.seed, *self._within, *name)

    def get(self, *name: str | int) -> np.random.Generator:
        """A fresh generator for *name*, e.g. ``get("session", 17)``; equal names, equal draws."""
        digest = sha256("/".join(map(str, (*self._within, *name))).encode()).digest()
        words = np.frombuffer(digest, dtype=np.uint32).tolist()
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *words])))
