"""The prompts of one scheduling pass, for the rule that defers what another will bring."""

from __future__ import annotations

from typing import Protocol

from ....policies.eviction.lru import Lru
from ..content import Chain
from .radix import RadixIndex


class Text(Protocol):
    """What is known of a request."""

    chain: Chain
    known: int


class ScratchTree:
    """A tree of tokens that is thrown away after the pass (SGLang's waiting_queue_radix_tree)."""

    def __init__(self) -> None:
        self._index = RadixIndex(1, Lru(), kind="radix")

    def agree(self, handle: Text) -> int:
        """Tokens that a prompt shares, from its start, with one that was added."""
        return self._index.peek(handle.chain, handle.known)[0]

    def add(self, handle: Text) -> None:
        """Remember a prompt."""
        self._index.insert(handle.chain, handle.known, range(handle.known))
