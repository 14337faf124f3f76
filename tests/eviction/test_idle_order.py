"""Idle units come and go in crowds; against a list that is sorted anew every time."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.eviction.base import Eviction, Key, hook
from infersim.policies.eviction.gdsf import Gdsf
from infersim.policies.eviction.queues import QueuedEviction, Queues
from infersim.policies.types import CachedBlock, Promise
from infersim.sim.state.kv.idle import IdleOrder
from infersim.sim.state.kv.queued import QueuedOrder

PER_KEY_S = 7  #: a key (n,) with an odd n turns into (n - 3,) at that many times n


class Turning(Eviction):
    promise = Promise(dynamic=True)

    def next_key(self, key: Key) -> tuple[int, Key] | None:
        return (PER_KEY_S * key[0], (key[0] - 3,)) if key[0] % 2 else None


class Fixed(Eviction):
    """Keys that never turn."""


class Second(QueuedEviction):
    """Two queues; the longer gives, and a unit of the second goes to the first at first."""

    def pick(self, queues: Queues) -> int:
        return int(queues.lengths[1] > queues.lengths[0])

    def spare(self, block: CachedBlock, key: Key) -> Key | None:
        return (0, *key[1:]) if key[0] else None


class Sorted:
    """The definition."""

    def __init__(self) -> None:
        self.entries: list[tuple[Key, int, int]] = []
        self.count = 0

    def put(self, unit: int, key: Key) -> None:
        self.entries.append((key, self.count, unit))
        self.count += 1

    def remove_all(self, units: list[int]) -> None:
        self.entries = [e for e in self.entries if e[2] not in units]

    def turn(self, now: int) -> None:
        odd = [e for e in self.entries if e[0][0] % 2 and PER_KEY_S * e[0][0] <= now]
        self.entries = [
            ((k[0] - 3,), n, u) if (k, n, u) in odd else (k, n, u) for k, n, u in self.entries
        ]

    def pop(self) -> int:
        first = min(self.entries)
        self.entries.remove(first)
        return first[2]

    def give_up(self) -> int:
        """As `Second` says."""
        while True:
            lengths = [sum(k[0] == queue for k, _, _ in self.entries) for queue in (0, 1)]
            entry = min(e for e in self.entries if e[0][0] == int(lengths[1] > lengths[0]))
            self.entries.remove(entry)
            if not entry[0][0]:
                return entry[2]
            self.put(entry[2], (0, *entry[0][1:]))


def crowd(rng: Random, order: Any, listed: Sorted, fresh: Any, key: Any) -> None:
    """Some units become idle, some are held again."""
    units = [next(fresh) for _ in range(rng.randrange(1, 12))]
    keys = [key() for _ in units]
    if rng.random() < 0.4:
        keys = sorted(keys, reverse=rng.random() < 0.5)
    if rng.random() < 0.3:
        keys = [keys[0]] * len(units)
        order.add_alike(units, keys[0])
    elif rng.random() < 0.3:
        for unit, one in zip(units, keys, strict=True):
            order.put(unit, one)
    else:
        order.add(units, keys)
    for unit, one in zip(units, keys, strict=True):
        listed.put(unit, one)
    if rng.random() < 0.6:
        idle = [e[2] for e in listed.entries]
        held = rng.sample(idle, rng.randrange(len(idle) + 1))
        order.remove_all(held)
        listed.remove_all(held)
        again = held[: rng.randrange(4)]  # and are let go at once: their first entries stay void
        keys = [key() for _ in again]
        order.add(again, keys)
        for unit, one in zip(again, keys, strict=True):
            listed.put(unit, one)


@settings(deadline=None, max_examples=25)
@given(rng=st.randoms(use_true_random=False))
@pytest.mark.parametrize("policy", [Fixed(), Turning()], ids=["fixed", "turning"])
def test_crowds_leave_by_key_then_age(policy: Eviction, rng: Random) -> None:
    order: IdleOrder[int] = IdleOrder(policy)
    listed, fresh, now = Sorted(), iter(range(10_000)), 0
    for _ in range(40):
        crowd(rng, order, listed, fresh, lambda: (rng.randrange(12),))
        now += rng.randrange(6)
        count = rng.randrange(min(9, len(order) + 1))
        if policy.promise.dynamic:
            listed.turn(now)
        assert order.pop_all(count, now) == [listed.pop() for _ in range(count)]
        assert len(order) == len(listed.entries)
        if len(order):
            assert order.first() == min(listed.entries)[0]
        assert order.units() == [e[2] for e in sorted(listed.entries)]


@settings(deadline=None, max_examples=25)
@given(rng=st.randoms(use_true_random=False))
def test_crowds_leave_their_queues_by_key_then_age(rng: Random) -> None:
    gone: list[int] = []
    order: QueuedOrder[int] = QueuedOrder(Second(), lambda unit: CachedBlock(unit, 0, 1, 0, 0))
    listed, fresh = Sorted(), iter(range(10_000))
    for _ in range(40):
        crowd(rng, order, listed, fresh, lambda: (rng.randrange(2), rng.randrange(6)))
        count = rng.randrange(min(9, len(order) + 1))
        taken = order.pop_all(count, lambda block: gone.append(block.key))
        assert taken == [listed.give_up() for _ in range(count)] == gone
        gone.clear()
        for queue in (0, 1):
            inside = sorted(e for e in listed.entries if e[0][0] == queue)
            assert order.lengths[queue] == len(inside)
            if inside:
                assert order.head(queue).key == inside[0][2]
                assert order.place(queue) == (inside[0][0][1:], inside[0][1])


def test_a_policy_hears_only_what_it_listens_to() -> None:
    policy = Gdsf()
    assert hook(policy, "on_insert") is None
    assert hook(policy, "on_evict") == policy.on_evict
    assert hook(Deaf(), "on_evict") is None


class Deaf(Gdsf):
    observes = False
