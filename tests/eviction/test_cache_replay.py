"""The rules of the cache-only replay, on streams worked by hand."""

from __future__ import annotations

from math import inf

import pytest

from infersim.policies.errors import InputError
from infersim.policies.eviction.base import Eviction, Key
from infersim.policies.eviction.lru import Lru
from infersim.policies.registry import eviction
from infersim.policies.types import CachedBlock, Promise, Request
from infersim.scenarios.cache.replay import ReplayCache, Row, replay
from infersim.scenarios.cache.stream import Lookup, Stream


def stream(*rows: list[int]) -> Stream:
    return Stream([Lookup(Request(n, n, (), 0, 0, -1), row) for n, row in enumerate(rows)])


def served(capacity: int, *rows: list[int], name: str = "lru") -> tuple[list[int], ReplayCache]:
    cache = ReplayCache(capacity, eviction.get(name)())
    return [cache.serve(r, blocks) for r, blocks in stream(*rows).lookups], cache


def test_a_hit_needs_all_predecessors() -> None:
    hits, _ = served(9, [1, 2, 3], [1, 9, 3], [2, 3], [1, 2, 3])
    assert hits == [0, 1, 2, 3]


def test_a_block_cached_behind_a_gap_keeps_its_place() -> None:
    # 2 is found behind the missing 9, so 2 stays the oldest and leaves for 4
    hits, cache = served(4, [2], [1, 3], [9, 2], [4], name="lru")
    assert hits == [0, 0, 0, 0]
    assert [b for b in (1, 2, 3, 4, 9) if b in cache] == [1, 3, 4, 9]


def test_misses_are_inserted_one_by_one_and_push_out_even_their_own_request() -> None:
    hits, cache = served(2, [1, 2, 3], [1, 2, 3])
    assert hits == [0, 0]
    assert 3 in cache
    assert 1 not in cache
    assert len(cache) == 2


def test_a_miss_can_evict_a_later_block_of_its_own_request() -> None:
    # 7 pushes out 2, the oldest, before 2 is looked up: a miss twice over
    hits, cache = served(2, [1, 2], [1, 7, 2])
    assert hits == [0, 1]
    assert 2 in cache
    assert 7 in cache


def test_a_block_that_a_prompt_says_twice_stands_where_it_stood_last() -> None:
    # the third request hits 1, 2 and 1 again, so 2 is the oldest and leaves for 4
    hits, cache = served(3, [1, 2], [1, 2, 1], [3], [4])
    assert hits == [0, 3, 0, 0]
    assert [b for b in (1, 2, 3, 4) if b in cache] == [1, 3, 4]


def test_hits_refresh_lru_but_not_fifo() -> None:
    rows = ([1], [2], [1], [3], [1])
    assert served(2, *rows, name="lru")[0] == [0, 0, 1, 0, 1]
    assert served(2, *rows, name="fifo")[0] == [0, 0, 1, 0, 0]


def test_belady_lets_a_block_bypass_that_is_of_no_use() -> None:
    rows = stream([1], [2], [3], [1], [2])
    assert replay(rows, eviction.get("belady")(), 2).hits == 2
    assert replay(rows, Lru(), 2).hits == 0


@pytest.mark.parametrize("name", ["lru", "lfu", "gdsf", "random", "belady"])
def test_no_limit_is_a_capacity_for_every_block(name: str) -> None:
    rows = stream([1, 2, 3], [1, 2, 4], [5], [1, 9, 3], [1, 2, 4, 6])
    endless, ample = (replay(rows, eviction.get(name)(), size) for size in (inf, 7))
    assert endless.hits == ample.hits == 2 + 1 + 3
    assert endless.references == 14


def test_a_row_is_plain_json_and_keeps_the_name() -> None:
    row = replay(stream([1, 2], [1]), Lru(), inf, name="mine")
    assert row.to_dict() | {"seconds": 0} == {
        "eviction": "mine",
        "capacity": "inf",
        "hit_rate": 1 / 3,
        "hits": 1,
        "references": 3,
        "seconds": 0,
    }
    assert Row("lru", 10, 0.5, 1, 2, 0.1).to_dict()["capacity"] == 10
    assert row.seconds >= 0


def test_a_stream_without_blocks_has_a_hit_rate_of_zero() -> None:
    assert replay(stream([], []), Lru(), 5).hit_rate == 0.0


@pytest.mark.parametrize("capacity", [0, -1, 2.5, -inf, float("nan")])
def test_a_capacity_that_is_no_whole_number_of_blocks_is_refused(capacity: float) -> None:
    with pytest.raises(InputError, match=f"capacity of {capacity:g} blocks"):
        replay(stream([1]), Lru(), capacity)


class Ripening(Eviction):
    """Keys turn twice: kept until 10 ps, first to leave until 20 ps, kept again after that."""

    promise = Promise(dynamic=True)

    def key(self, block: CachedBlock, request: Request | None, now: int) -> Key:
        return (5, 0) if block.key == 1 else (5, 1)

    def next_key(self, key: Key) -> tuple[int, Key] | None:
        return {(5, 1): (10, (1,)), (1,): (20, (9,))}.get(key)


@pytest.mark.parametrize(("now", "survivor"), [(9, 2), (10, 1), (19, 1), (20, 2)])
def test_keys_turn_as_often_as_the_policy_says(now: int, survivor: int) -> None:
    cache = ReplayCache(2, Ripening())
    cache.serve(Request(0, 0, (), 0, 0, -1), [1])
    cache.serve(Request(1, 0, (), 0, 0, -1), [2])
    cache.serve(Request(2, now, (), 0, 0, -1), [3])
    assert {b for b in (1, 2) if b in cache} == {survivor}
