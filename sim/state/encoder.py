"""Cache of multimodal encoder outputs (vLLM 0.33, `v1/core/encoder_cache_manager.py`).

Room for outputs that come from an encoder replica is reserved before they set out; they stay until
the prompt is computed past them, whether or not its request is admitted meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from ...policies.types import MultiModalItem, Request


class Holder(Protocol):
    """Who refers to outputs: a sequence, or images on their way."""

    id: int
    request: Request


class EncoderCache:
    """Encoder outputs by identifier, shared by requests, sizes in embeddings (tokens).

    An entry that no request refers to stays until its space is needed; the one that was let go
    first leaves first.

    Attributes:
        on_room: called when entries were let go, or room that was reserved.
    """

    def __init__(self, size_tokens: int) -> None:
        self.size_tokens = size_tokens
        self.on_room: Callable[[], None] | None = None
        self._free = self._freeable = size_tokens
        self._reserved = 0
        self._holders: dict[int, set[int]] = {}  # identifier -> keys of holders
        self._tokens: dict[int, int] = {}
        #: key of a holder -> indices of its items; let go in a set's order, as vLLM does (that of
        #: integers is the same in every process). The key is the request's id, and for what came
        #: from an encoder ~id.
        self._items: dict[int, set[int]] = {}
        self._came: dict[int, Request] = {}  # whose outputs came from an encoder, by key
        self._idle: OrderedDict[int, int] = OrderedDict()  # identifier -> tokens
        self.evicted: list[int] = []  #: entries that left since the last `take_evicted`

    @property
    def held_tokens(self) -> int:
        """Tokens of entries that requests refer to, and those reserved."""
        return self.size_tokens - self._freeable

    @property
    def expecting(self) -> bool:
        """Whether outputs are on their way here."""
        return self._reserved > 0

    def has(self, identifier: int) -> bool:
        """Whether the output of this content is here."""
        return identifier in self._holders

    def use(self, seq: Holder, index: int) -> bool:
        """True when the item's output is here; *seq* then refers to it."""
        return self._hold(seq.id, seq.request, index)

    def make_room(self, item: MultiModalItem, budget_tokens: int, planned_tokens: int) -> bool:
        """True when the item can be computed in this step; idle entries may leave for it.

        Args:
            budget_tokens: what the step may still compute.
            planned_tokens: embeddings already planned for this request in this step.
        """
        if item.tokens > budget_tokens:
            return False
        need = item.tokens + planned_tokens
        if need > self._free and need > self._freeable and not self._give_way(need):
            return False
        self._evict(need)
        return True

    def store(self, seq: Holder, index: int) -> None:
        """The item is computed in this step; `make_room` said yes."""
        item = seq.request.items[index]
        self._holders.setdefault(item.identifier, set()).add(seq.id)
        self._tokens[item.identifier] = item.tokens
        self._items.setdefault(seq.id, set()).add(index)
        self._free -= item.tokens
        self._freeable -= item.tokens

    def holds(self, seq: Holder) -> bool:
        """Whether *seq* refers to any entry."""
        return seq.id in self._items or ~seq.id in self._items

    def release_passed(self, seq: Holder, computed_tokens: int) -> None:
        """Let go of items whose positions are all in KV."""
        for key in (seq.id, ~seq.id):
            for index in list(self._items.get(key, ())):
                item = seq.request.items[index]
                if item.offset + item.tokens <= computed_tokens:
                    self._release(key, seq.request, index)

    def release(self, seq: Holder) -> None:
        """Let go of everything *seq* refers to, but what came from an encoder for its prompt."""
        self._release_key(seq.id, seq.request)

    def release_all(self, seq: Holder) -> None:
        """Let go of everything *seq* refers to: it has ended."""
        self._release_key(seq.id, seq.request)
        self._release_key(~seq.id, seq.request)

    def let_go(self, seq: Holder, index: int) -> None:
        """Let go of one item that *seq* refers to."""
        self._release(seq.id, seq.request, index)

    # ---- from an encoder replica ----------------------------------------------------------------

    def reserve(self, request: Request, indices: Iterable[int]) -> list[int] | None:
        """Hold what is here of these items for *request*, and room for the others.

        Returns:
            The items that have to come, equal ones once; None: there is no room, nothing is held.
        """
        coming: dict[int, int] = {}  # identifier -> its first item
        here = []
        for index in indices:
            item = request.items[index]
            if item.identifier in self._holders:
                here.append(index)
            else:
                coming.setdefault(item.identifier, index)
        idle = {request.items[i].identifier for i in here} & self._idle.keys()
        need = sum(request.items[index].tokens for index in coming.values())
        if need > self._freeable - sum(self._tokens[identifier] for identifier in idle):
            return None
        for index in here:
            self._hold(~request.id, request, index)
        self._evict(need)
        self._free -= need
        self._freeable -= need
        self._reserved += need
        return list(coming.values())

    def arrive(self, request: Request, index: int, indices: Iterable[int]) -> bool:
        """The output of item *index* is here, in the room that was reserved for it.

        Args:
            indices: the items of *request* that go to encoders; equal ones are held with it.

        Returns:
            Whether it is kept; False: an equal one was here before.
        """
        item = request.items[index]
        came_first = item.identifier in self._holders  # that of another request, or made here
        if not came_first:
            self._reserved -= item.tokens
            self._holders[item.identifier] = {~request.id}
            self._tokens[item.identifier] = item.tokens
        for other in indices:
            if request.items[other].identifier == item.identifier:
                self._hold(~request.id, request, other)
        if came_first:
            self.unreserve(request, index)
        return not came_first

    def unreserve(self, request: Request, index: int) -> None:
        """Item *index* does not come, or need not: its room is free again."""
        tokens = request.items[index].tokens
        self._reserved -= tokens
        self._free += tokens
        self._freeable += tokens
        self._tell_room()

    # ---- entries --------------------------------------------------------------------------------

    def _hold(self, key: int, request: Request, index: int) -> bool:
        identifier = request.items[index].identifier
        holders = self._holders.get(identifier)
        if holders is None:
            return False
        if not holders:
            self._freeable -= self._idle.pop(identifier)
        holders.add(key)
        self._items.setdefault(key, set()).add(index)
        if key < 0:
            self._came[key] = request
        return True

    def _give_way(self, need_tokens: int) -> bool:
        """Let go of what came for other prompts, the latest first, for one that is computed now.

        Those wait in line behind it, so that it would never find room; they are encoded here.
        """
        came = sum(self._tokens[i] for i, holders in self._holders.items() if _all_came(holders))
        if need_tokens > self._freeable + came:
            return False
        on_room, self.on_room = self.on_room, None  # the room is for this one
        for key in list(reversed(self._came)):
            if need_tokens <= self._freeable:
                break
            self._release_key(key, self._came[key])
        self.on_room = on_room
        return True

    def _release_key(self, key: int, request: Request) -> None:
        for index in list(self._items.get(key, ())):
            self._release(key, request, index)

    def _evict(self, need_tokens: int) -> None:
        """Let idle entries leave until so many tokens are free."""
        while need_tokens > self._free:
            identifier, tokens = self._idle.popitem(last=False)
            del self._holders[identifier], self._tokens[identifier]
            self.evicted.append(identifier)
            self._free += tokens

    def _release(self, key: int, request: Request, index: int) -> None:
        held, items = self._items[key], request.items
        held.discard(index)
        identifier = items[index].identifier
        still = any(items[other].identifier == identifier for other in held)
        if not held:
            del self._items[key]
            self._came.pop(key, None)
        holders = self._holders.get(identifier)
        if still or not holders:
            return
        holders.discard(key)
        if not holders:
            self._idle[identifier] = self._tokens[identifier]
            self._freeable += self._tokens[identifier]
            self._tell_room()

    def _tell_room(self) -> None:
        if self.on_room is not None:
            self.on_room()

    def take_evicted(self) -> list[int]:
        """Identifiers that left since the last call and did not come back."""
        evicted = [i for i in self.evicted if i not in self._holders]
        self.evicted.clear()
        return evicted


def _all_came(holders: set[int]) -> bool:
    """Whether an entry is held, and by keys of what came from an encoder alone."""
    return bool(holders) and max(holders) < 0
