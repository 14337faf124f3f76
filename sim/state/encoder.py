"""Cache of multimodal encoder outputs (vLLM 0.33, `v1/core/encoder_cache_manager.py`)."""

from __future__ import annotations

from collections import OrderedDict

from ...policies.types import MultiModalItem
from .sequence import Sequence


class EncoderCache:
    """Encoder outputs by identifier, shared by requests, sizes in embeddings (tokens).

    An entry that no request refers to stays until its space is needed; the one that was let go
    first leaves first.
    """

    def __init__(self, size_tokens: int) -> None:
        self.size_tokens = size_tokens
        self._free = self._freeable = size_tokens
        self._holders: dict[int, set[int]] = {}  # identifier -> request ids
        self._tokens: dict[int, int] = {}
        #: request id -> indices of its items; let go in a set's order, as vLLM does (that of
        #: integers is the same in every process)
        self._items: dict[int, set[int]] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()  # identifier -> tokens
        self._evicted: list[int] = []

    def use(self, seq: Sequence, index: int) -> bool:
        """True when the item's output is here; *seq* then refers to it."""
        identifier = seq.request.items[index].identifier
        holders = self._holders.get(identifier)
        if holders is None:
            return False
        if not holders:
            self._freeable -= self._idle.pop(identifier)
        holders.add(seq.id)
        self._items.setdefault(seq.id, set()).add(index)
        return True

    def make_room(self, item: MultiModalItem, budget_tokens: int, planned_tokens: int) -> bool:
        """True when the item can be computed in this step; idle entries may leave for it.

        Args:
            budget_tokens: what the step may still compute.
            planned_tokens: embeddings already planned for this request in this step.
        """
        if item.tokens > budget_tokens:
            return False
        need = item.tokens + planned_tokens
        if need > self._free and need > self._freeable:
            return False
        while need > self._free:
            identifier, tokens = self._idle.popitem(last=False)
            del self._holders[identifier], self._tokens[identifier]
            self._evicted.append(identifier)
            self._free += tokens
        return True

    def store(self, seq: Sequence, index: int) -> None:
        """The item is computed in this step; `make_room` said yes."""
        item = seq.request.items[index]
        self._holders.setdefault(item.identifier, set()).add(seq.id)
        self._tokens[item.identifier] = item.tokens
        self._items.setdefault(seq.id, set()).add(index)
        self._free -= item.tokens
        self._freeable -= item.tokens

    def holds(self, seq: Sequence) -> bool:
        """Whether *seq* refers to any entry."""
        return seq.id in self._items

    def release_passed(self, seq: Sequence, computed_tokens: int) -> None:
        """Let go of items whose positions are all in KV."""
        for index in list(self._items.get(seq.id, ())):
            item = seq.request.items[index]
            if item.offset + item.tokens <= computed_tokens:
                self._release(seq, index)

    def release(self, seq: Sequence) -> None:
        """Let go of everything *seq* refers to."""
        for index in list(self._items.get(seq.id, ())):
            self._release(seq, index)

    def _release(self, seq: Sequence, index: int) -> None:
        held, items = self._items[seq.id], seq.request.items
        held.discard(index)
        identifier = items[index].identifier
        still = any(items[other].identifier == identifier for other in held)
        if not held:
            del self._items[seq.id]
        holders = self._holders.get(identifier)
        if still or not holders:
            return
        holders.discard(seq.id)
        if not holders:
            self._idle[identifier] = self._tokens[identifier]
            self._freeable += self._tokens[identifier]

    @property
    def evicting(self) -> bool:
        """Whether entries left since the last `take_evicted`."""
        return bool(self._evicted)

    def take_evicted(self) -> list[int]:
        """Identifiers that left since the last call and did not come back."""
        evicted = [i for i in self._evicted if i not in self._holders]
        self._evicted.clear()
        return evicted
