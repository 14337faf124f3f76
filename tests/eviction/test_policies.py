"""What each policy says of itself, of single blocks, and of wrong parameters."""

from collections import Counter
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.policies.eviction.base import Eviction
from infersim.policies.eviction.future import RecordedUses
from infersim.policies.eviction.random import Random
from infersim.policies.eviction.session_ttl import SessionTtl
from infersim.policies.registry import eviction
from infersim.policies.types import PS_PER_S, CachedBlock, Request
from infersim.scenarios.cache.replay import ReplayCache

NAMES = ("belady", "fifo", "gdsf", "length-aware", "lfu", "lru", "random", "session-ttl")


def request(number: int = 0, at_s: float = 0, tool_time_s: float = -1.0) -> Request:
    return Request(
        number, round(at_s * PS_PER_S), (), 0, 0, -1, session=number, tool_time_s=tool_time_s
    )


def block(key: int, position: int = 0, hits: int = 0, inserted: int = 0) -> CachedBlock:
    return CachedBlock(key, position, 1, hits, inserted)


def test_every_policy_is_registered_and_says_what_it_does_in_one_line() -> None:
    found = dict(eviction)
    assert set(NAMES) <= set(found)
    for name in NAMES:
        line = (found[name].__doc__ or "").split("\n")[0]
        assert line.endswith("."), name
        assert not line.startswith(found[name].__name__), "the docstring that dataclass makes"


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_one_release_are_equal_exactly_where_tail_first_is_promised(name: str) -> None:
    policy: Eviction = eviction.get(name)()
    policy.attach(RecordedUses([[0, 1, 2], [0, 1, 2]]))
    asked = request(0, 1, tool_time_s=3.0)
    prompt = [block(key, position=key, inserted=key) for key in range(3)]
    for one in prompt:
        policy.on_insert(one, asked)
    keys = {policy.key(one, asked, asked.arrival_ps) for one in reversed(prompt)}
    if policy.promise.tail_first:
        assert len(keys) == 1
    assert policy.promise.tail_first == (name in ("lru", "session-ttl"))
    assert policy.promise.oracle == (name == "belady")
    assert policy.promise.dynamic == (name == "session-ttl")


@pytest.mark.parametrize("name", NAMES)
def test_two_objects_of_one_policy_share_nothing(name: str) -> None:
    one, other = eviction.get(name)(), eviction.get(name)()
    for policy in (one, other):
        policy.attach(RecordedUses([[7], [7]]))
    one.on_insert(block(7), request())
    first = one.key(block(7), request(), 0)
    one.on_evict(block(7))
    other.on_insert(block(7), request())
    assert other.key(block(7), request(), 0) == first


@pytest.mark.parametrize(
    ("name", "params", "number"),
    [
        ("lfu", {"counting": "globl"}, "globl"),
        ("random", {"seed": -1}, "-1"),
        ("random", {"seed": 1.5}, "1.5"),
        ("random", {"seed": True}, "True"),
        ("session-ttl", {"factor": 0}, "0"),
        ("session-ttl", {"factor": float("nan")}, "nan"),
        ("session-ttl", {"min_s": -2.0}, "-2.0"),
        ("session-ttl", {"max_s": float("inf")}, "inf"),
        ("session-ttl", {"max_s": "5"}, "'5'"),
        ("session-ttl", {"factor": True}, "True"),
        ("session-ttl", {"min_s": 9.0, "max_s": 8.0}, "9.0"),
        ("session-ttl", {"expired_first": 1}, "1"),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_value(
    name: str, params: dict[str, Any], number: str
) -> None:
    with pytest.raises(InputError, match=name) as error:
        eviction.get(name)(**params)
    assert number in str(error.value)


def test_belady_without_a_future_is_refused() -> None:
    with pytest.raises(InputError, match="belady reads the future"):
        eviction.get("belady")().key(block(1), request(), 0)


def test_belady_looks_ahead_from_the_latest_request_it_has_seen() -> None:
    policy = eviction.get("belady")()
    policy.attach(RecordedUses([[5], [5], [], [5]]))
    assert policy.key(block(5, position=2), request(0), 0) == (-1, -2)
    policy.on_hit(block(5), request(1))
    assert policy.key(block(5), request(0), 0) == (-3, 0)
    policy.on_insert(block(6), request(3))
    assert policy.key(block(5), None, 0)[0] == float("-inf")


def test_global_lfu_remembers_what_it_evicted_and_forgetting_lfu_does_not() -> None:
    policy = eviction.get("lfu")(counting="global")
    policy.on_insert(block(1), request())
    policy.on_hit(block(1, hits=1), request())
    policy.on_evict(block(1, hits=1))
    policy.on_insert(block(1), request())
    assert policy.key(block(1), request(), 0) == (3,)
    assert eviction.get("lfu")().key(block(1), request(), 0) == (0,)


def test_gdsf_lets_old_counts_be_overtaken() -> None:
    policy = eviction.get("gdsf")()
    old = policy.key(block(1, hits=4), request(), 0)
    for key in range(2, 8):
        value = policy.key(block(key), request(), 0)
        policy.on_evict(block(key))
    assert value == (6,)
    assert old == (5,)


# ---- session-ttl --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool_time_s", "ttl_s"), [(0.0, 1.0), (0.4, 1.0), (1.5, 3.0), (4.0, 5.0), (1e9, 5.0)]
)
def test_ttl_is_factor_times_the_tool_time_within_its_limits(
    tool_time_s: float, ttl_s: float
) -> None:
    policy = SessionTtl(factor=2.0, min_s=1.0, max_s=5.0)
    key = policy.key(block(1), request(0, 10, tool_time_s), 10 * PS_PER_S)
    assert key == (1, round((10 + ttl_s) * PS_PER_S))
    assert policy.next_key(key) == (round((10 + ttl_s) * PS_PER_S), (0,))


def test_a_block_without_a_client_that_comes_back_is_never_protected() -> None:
    policy = SessionTtl()
    assert policy.key(block(1), request(tool_time_s=-1.0), 0) == (0,)
    assert policy.key(block(1), None, 0) == (0,)
    assert policy.next_key((0,)) is None
    assert SessionTtl(min_s=0.0).key(block(1), request(tool_time_s=0.0), 0) == (0,)


@pytest.mark.parametrize(("late_ps", "survivor"), [(-1, 1), (0, 2)])
def test_protection_ends_exactly_at_the_expiry(late_ps: int, survivor: int) -> None:
    cache = ReplayCache(2, SessionTtl(factor=1.0, min_s=0.0))
    cache.serve(request(0, 0, tool_time_s=3.0), [1])  # until 3 s, and the oldest
    cache.serve(request(1, 1), [2])
    late = Request(2, 3 * PS_PER_S + late_ps, (), 0, 0, -1)
    cache.serve(late, [3])
    assert {b for b in (1, 2, 3) if b in cache} == {survivor, 3}


def test_of_protected_blocks_the_first_to_expire_leaves_first() -> None:
    cache = ReplayCache(2, SessionTtl(factor=1.0))
    cache.serve(request(0, 0, tool_time_s=50.0), [1])
    cache.serve(request(1, 1, tool_time_s=20.0), [2])
    cache.serve(request(2, 2, tool_time_s=90.0), [3])
    assert 1 in cache
    assert 2 not in cache


@pytest.mark.parametrize(("expired_first", "leaves"), [(False, 1), (True, 2)])
def test_what_has_expired_takes_its_place_or_leaves_first(expired_first: bool, leaves: int) -> None:
    """Block 1 is nobody's and older; block 2 was kept until second 1 and is asked for no more."""
    cache = ReplayCache(2, SessionTtl(factor=1.0, expired_first=expired_first))
    cache.serve(request(0, 0.0), [1])
    cache.serve(request(1, 0.0, tool_time_s=1.0), [2])
    cache.serve(request(2, 1.0), [3])
    assert leaves not in cache
    assert 3 - leaves in cache


# ---- random -------------------------------------------------------------------------------------


def evicted_by(policy: Random, capacity: int, blocks: int) -> list[int]:
    left: list[int] = []

    class Watched(Random):
        def on_evict(self, block: CachedBlock) -> None:
            left.append(block.key)
            super().on_evict(block)

    watched = Watched(policy.seed)
    cache = ReplayCache(capacity, watched)
    for key in range(blocks):
        cache.serve(request(key, key), [key])
    return left


def test_equal_seeds_evict_alike_and_unequal_ones_do_not() -> None:
    assert evicted_by(Random(3), 8, 200) == evicted_by(Random(3), 8, 200)
    assert evicted_by(Random(3), 8, 200) != evicted_by(Random(4), 8, 200)


def test_every_free_block_has_the_same_chance_however_long_it_is_free() -> None:
    """Ages at eviction are geometric with p = 1/capacity, as for a uniform choice each time."""
    capacity, blocks = 8, 20_000
    ages = Counter(
        number + capacity - key
        for number, key in enumerate(evicted_by(Random(1), capacity, blocks))
    )
    evictions = blocks - capacity
    for age in range(1, 25):
        share = (1 - 1 / capacity) ** (age - 1) / capacity
        sigma = (evictions * share * (1 - share)) ** 0.5
        assert abs(ages[age] - evictions * share) < 4.5 * sigma, age


def test_a_draw_depends_on_seed_block_and_draw() -> None:
    draws = {Random(seed).key(block(key), None, 0) for seed in range(20) for key in range(-20, 20)}
    policy = Random()
    draws |= {policy.key(block(1), None, 0) for _ in range(100)}
    assert len(draws) == 20 * 40 + 99  # Random().key(block 1) opens both sets
