"""SIEVE, S3-FIFO, ARC and W-TinyLFU against their published algorithms on lists."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.policies.eviction.arc import Arc
from infersim.policies.eviction.s3_fifo import S3Fifo
from infersim.policies.eviction.sieve import Sieve
from infersim.policies.eviction.w_tinylfu import WTinyLfu
from infersim.policies.types import CachedBlock, Request
from infersim.scenarios.cache.replay import ReplayCache
from infersim.sim.state.kv.queued import QueuedOrder

ASKED = Request(0, 0, (), 0, 0, -1)

references = st.lists(st.integers(0, 14), min_size=1, max_size=300)
capacities = st.integers(1, 12)


def hits(policy: Any, capacity: int, blocks: list[int]) -> list[int]:
    """For each reference, alone in its request, whether it hit."""
    cache = ReplayCache(capacity, policy)
    return [cache.serve(ASKED, [block]) for block in blocks]


def sieve_hits(capacity: int, blocks: list[int]) -> list[int]:
    """Zhang et al., NSDI'24, algorithm 1: a list from tail (oldest) to head, and a hand."""
    order: list[int] = []
    visited: dict[int, bool] = {}
    hand, found = 0, []
    for block in blocks:
        found.append(int(block in visited))
        if block in visited:
            visited[block] = True
            continue
        if len(order) == capacity:
            hand = hand if hand < len(order) else 0
            while visited[order[hand]]:
                visited[order[hand]] = False
                hand = (hand + 1) % len(order)
            del visited[order.pop(hand)]
        order.append(block)
        visited[block] = False
    return found


def s3_fifo_hits(capacity: int, blocks: list[int]) -> list[int]:
    """Yang et al., SOSP'23, algorithm 1."""
    small: list[int] = []
    main: list[int] = []
    ghosts: list[int] = []
    freq: dict[int, int] = {}
    found = []
    for block in blocks:
        found.append(int(block in freq))
        if block in freq:
            freq[block] = min(freq[block] + 1, 3)
            continue
        while len(small) + len(main) >= capacity:
            if small and (len(small) >= 0.1 * capacity or not main):
                tail = small.pop(0)
                if freq[tail] > 1:
                    freq[tail] = 0
                    main.append(tail)
                    continue
                del freq[tail]
                ghosts.append(tail)
                while len(ghosts) > round(0.9 * capacity):
                    ghosts.pop(0)
                continue
            tail = main.pop(0)
            if freq[tail]:
                freq[tail] -= 1
                main.append(tail)
            else:
                del freq[tail]
        if block in ghosts:
            ghosts.remove(block)
            main.append(block)
        else:
            small.append(block)
        freq[block] = 0
    return found


def arc_hits(capacity: int, blocks: list[int]) -> list[int]:
    """Megiddo and Modha, FAST'03, but learning the target after room was made."""
    t1: OrderedDict[int, None] = OrderedDict()
    t2: OrderedDict[int, None] = OrderedDict()
    b1: OrderedDict[int, None] = OrderedDict()
    b2: OrderedDict[int, None] = OrderedDict()
    target, found = 0.0, []
    for block in blocks:
        found.append(int(block in t1 or block in t2))
        if found[-1]:
            t1.pop(block, None)
            t2[block] = None
            t2.move_to_end(block)
            continue
        if len(t1) + len(t2) == capacity:
            source, ghost = (t1, b1) if t1 and (len(t1) > target or not t2) else (t2, b2)
            ghost[source.popitem(last=False)[0]] = None
            while b1 and len(t1) + len(b1) > capacity:
                b1.popitem(last=False)
            while b2 and len(t1) + len(t2) + len(b1) + len(b2) > 2 * capacity:
                b2.popitem(last=False)
        if block in b1:
            target = min(target + max(1.0, len(b2) / len(b1)), capacity)
            del b1[block]
            t2[block] = None
        elif block in b2:
            target = max(target - max(1.0, len(b1) / len(b2)), 0.0)
            del b2[block]
            t2[block] = None
        else:
            t1[block] = None
    return found


def w_tinylfu_hits(capacity: int, blocks: list[int]) -> list[int]:
    """Einziger et al., ACM TOS 2017, figure 1: window of 1 %, main part a segmented LRU 20:80.

    Counts are exact; ten references a cached block halve all. What is too much in the window or
    protected moves on when room is needed, as the size of the cache is not known before.
    """
    window: list[int] = []
    probation: list[int] = []
    protected: list[int] = []
    counts: dict[int, int] = {}
    references, found = 0, []
    for block in blocks:
        cached = [*window, *probation, *protected]
        found.append(int(block in cached))
        if block in window:
            window.remove(block)
            window.append(block)
        elif block in protected:
            protected.remove(block)
            protected.append(block)
        elif block in probation:
            probation.remove(block)
            protected.append(block)
        else:
            if len(cached) == capacity:
                while len(protected) > 0.8 * (len(probation) + len(protected)):
                    probation.append(protected.pop(0))
                while len(window) > 1:
                    probation.append(window.pop(0))
                candidate = counts.get(window[0], 0) if window else inf
                victim = counts.get(probation[0], 0) if probation else inf
                if candidate > victim:
                    probation = [*probation[1:], *window]
                window = []
            window.append(block)
        counts[block] = counts.get(block, 0) + 1
        references += 1
        if references >= 10 * (len(window) + len(probation) + len(protected)):
            references //= 2
            counts = {key: n // 2 for key, n in counts.items() if n > 1}
    return found


@settings(deadline=None, max_examples=300)
@given(blocks=references, capacity=capacities)
@pytest.mark.parametrize(
    ("policy", "published"),
    [
        (Sieve, sieve_hits),
        (S3Fifo, s3_fifo_hits),
        (Arc, arc_hits),
        (WTinyLfu, w_tinylfu_hits),
    ],
    ids=["sieve", "s3-fifo", "arc", "w-tinylfu"],
)
def test_hits_are_those_of_the_published_algorithm(
    policy: Callable[[], Any],
    published: Callable[[int, list[int]], list[int]],
    blocks: list[int],
    capacity: int,
) -> None:
    assert hits(policy(), capacity, blocks) == published(capacity, blocks)


@settings(deadline=None, max_examples=200)
@given(blocks=references, capacity=capacities)
@pytest.mark.parametrize("policy", [Sieve, S3Fifo, Arc, WTinyLfu])
def test_the_pool_keeps_the_same_queues_as_the_replay(
    policy: Callable[[], Any], blocks: list[int], capacity: int
) -> None:
    chooser = policy()
    units: dict[int, CachedBlock] = {}
    order: QueuedOrder[int] = QueuedOrder(chooser, units.__getitem__)
    found = []
    for number, block in enumerate(blocks):
        found.append(int(block in units))
        if block in units:
            order.remove(block)
            units[block] = units[block]._replace(hits=units[block].hits + 1)
            chooser.on_hit(units[block], ASKED)
        else:
            if len(units) == capacity:
                leaver = order.pop(0)
                chooser.on_evict(units.pop(leaver))
            units[block] = CachedBlock(block, 0, 1, 0, number)
            chooser.on_insert(units[block], ASKED)
        order.put(block, chooser.key(units[block], ASKED, 0))
        assert len(order) == len(units)
        assert sorted(order.units()) == sorted(units)
    assert found == hits(policy(), capacity, blocks)


def test_a_scan_does_not_flush_what_is_popular() -> None:
    """Popular blocks asked for between runs of blocks that are used once."""
    rng = Random(0)
    popular = list(range(20))
    stream: list[int] = []
    for burst in range(60):
        stream += rng.choices(popular, k=40)
        stream += range(1000 + 100 * burst, 1100 + 100 * burst)
    rates = {}
    for policy in (Sieve, S3Fifo, Arc, WTinyLfu):
        found = hits(policy(), 60, stream)
        rates[policy.__name__] = sum(found) / (60 * 40)
    lru = hits_of_lru(60, stream) / (60 * 40)
    assert lru < 0.6
    assert all(rate > lru + 0.1 for rate in rates.values()), (lru, rates)
    assert rates["WTinyLfu"] > 0.95


def hits_of_lru(capacity: int, blocks: list[int]) -> int:
    """How many references a cache in order of last use finds."""
    cached: OrderedDict[int, None] = OrderedDict()
    found = 0
    for block in blocks:
        found += block in cached
        cached[block] = None
        cached.move_to_end(block)
        if len(cached) > capacity:
            cached.popitem(last=False)
    return found


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: S3Fifo(small=0.0),
        lambda: S3Fifo(small=1.0),
        lambda: WTinyLfu(window=1.5),
        lambda: WTinyLfu(protected=-1.0),
    ],
)
def test_refuses_shares_that_leave_nothing(wrong: Callable[[], Any]) -> None:
    with pytest.raises(InputError):
        wrong()
