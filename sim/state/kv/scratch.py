"""The prompts of one scheduling pass, for the rule that defers what another will bring."""

from __future__ import annotations

from ....policies.eviction.lru import Lru
from ..content import Chain
from .radix import RadixIndex


class ScratchTree:
    """A tree of tokens that is thrown away after the pass (SGLang's waiting_queue_radix_tree)."""

    def __init__(self) -> None:
        self._index = RadixIndex(1, Lru(), kind="radix")

    def agree(self, chain: Chain, tokens: int) -> int:
        """How much of the first *tokens* of a prompt is that of one that was added."""
        return self._index.peek(chain, tokens)[0]

    def add(self, chain: Chain, tokens: int) -> None:
        """Add the first *tokens* of a prompt."""
        self._index.insert(chain, tokens, range(tokens))
