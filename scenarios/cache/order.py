"""Blocks in the order in which a policy lets them go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from ...policies.eviction.base import Eviction, Key
from ...policies.eviction.queues import next_to_leave
from ...policies.types import CachedBlock


class Order:
    """Blocks by key; equal keys in the order in which they were put.

    A heap of the different keys, and the blocks of each: most policies know few keys at a time,
    which makes this 2-3 times faster than a heap of blocks.
    """

    def __init__(self) -> None:
        self._places: dict[Key, int | OrderedDict[int, None]] = {}  # one block, or several
        self._keys: list[Key] = []  # a heap; keys that have no block are dropped on sight

    def put(self, block: int, key: Key) -> None:
        """Add a block that is not in the order."""
        places = self._places
        place = places.get(key)
        if place is None:
            places[key] = block
            heappush(self._keys, key)
            if len(self._keys) > 2 * len(places) + 64:
                self._keys = list(places)
                heapify(self._keys)
        elif isinstance(place, int):
            places[key] = OrderedDict.fromkeys((place, block))
        else:
            place[block] = None

    def move(self, block: int, old: Key, new: Key) -> None:
        """Put a block again, which was put with *old*."""
        if old == new:
            place = self._places[old]
            if not isinstance(place, int):
                place.move_to_end(block)
            return
        self.remove(block, old)
        self.put(block, new)

    def remove(self, block: int, key: Key) -> None:
        """Take out a block that was put with *key*."""
        place = self._places[key]
        if isinstance(place, int):
            del self._places[key]
            return
        del place[block]
        if not place:
            del self._places[key]

    def first(self) -> Key:
        """The smallest key; there must be a block."""
        while self._keys[0] not in self._places:
            heappop(self._keys)
        return self._keys[0]

    def pop(self) -> int:
        """Take out the block that leaves first."""
        key = self.first()
        place = self._places[key]
        if isinstance(place, int):
            del self._places[key]
            return place
        block, _ = place.popitem(last=False)
        if not place:
            del self._places[key]
        return block

    def head(self) -> int:
        """The block that leaves first."""
        place = self._places[self.first()]
        return place if isinstance(place, int) else next(iter(place))


class QueuedOrders:
    """The blocks of a policy that keeps several queues (`QueuedEviction`), each in an order.

    Args:
        policy: chooses between the queues.
        unit: what the policy may know of a block.
    """

    def __init__(self, policy: Eviction, unit: Callable[[int], CachedBlock]) -> None:
        self._policy, self._unit = policy, unit
        self._keys: dict[int, Key] = {}  # as they are after the policy looked again
        self._orders: dict[int, Order] = {}
        self._lengths: dict[int, int] = {}
        self._puts: dict[int, int] = {}  # block -> number of its last put
        self._count = 0

    def put(self, block: int, key: Key) -> None:
        """Add a block that is in no queue."""
        queue = key[0]
        self._keys[block] = key
        self._count += 1
        self._puts[block] = self._count
        self._orders.setdefault(queue, Order()).put(block, key)
        self._lengths[queue] = self._lengths.get(queue, 0) + 1

    def move(self, block: int, old: Key, new: Key) -> None:
        """Put a block again; its key may have changed since *old*."""
        old = self._keys[block]
        if old[0] == new[0]:
            self._keys[block] = new
            self._count += 1
            self._puts[block] = self._count
            self._orders[old[0]].move(block, old, new)
            return
        self._orders[old[0]].remove(block, old)
        self._lengths[old[0]] -= 1
        self.put(block, new)

    def length(self, queue: int) -> int:
        """How many blocks the queue holds."""
        return self._lengths.get(queue, 0)

    def head(self, queue: int) -> CachedBlock:
        """The block of a queue that is not empty with the smallest key."""
        return self._unit(self._orders[queue].head())

    def place(self, queue: int) -> tuple[Key, int]:
        """Where the head of a queue that is not empty would stand if all queues were one."""
        block = self._orders[queue].head()
        return self._keys[block][1:], self._puts[block]

    def take(self, queue: int) -> tuple[int, CachedBlock, Key]:
        """Remove the head of a queue."""
        block = self._orders[queue].pop()
        self._lengths[queue] -= 1
        del self._puts[block]
        return block, self._unit(block), self._keys.pop(block)

    def pop(self) -> int:
        """Take out the block that the policy gives up."""
        return next_to_leave(self._policy, self)
