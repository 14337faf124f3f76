"""Every policy against a cache that is a list and works its victim out from the definition."""

from collections.abc import Callable, Sequence
from functools import cache
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.eviction.base import Eviction
from infersim.policies.registry import eviction
from infersim.policies.types import PS_PER_S, CachedBlock, Request
from infersim.scenarios.cache.replay import ReplayCache, replay
from infersim.scenarios.cache.stream import Lookup, Stream
from infersim.sim.state.kv.idle import IdleOrder

TTL = {"factor": 2.0, "min_s": 1.0, "max_s": 5.0}


def request(number: int, at_s: int = 0, tool_time_s: float = -1.0) -> Request:
    return Request(
        number, at_s * PS_PER_S, (), 0, 0, -1, session=number % 3, tool_time_s=tool_time_s
    )


class Known:
    """What there is to know of a cached block."""

    def __init__(self, block: int, position: int, insertion: int) -> None:
        self.block, self.position, self.insertion = block, position, insertion
        self.references = 0
        self.reference_number = 0
        self.request = 0
        self.value = 0


class ListCache:
    """The definition: a list of blocks, searched from end to end for the victim."""

    def __init__(self, capacity: int, rank: Callable[["ListCache", Known], Any]) -> None:
        self.capacity, self.rank = capacity, rank
        self.cached: list[Known] = []
        self.ever: dict[int, int] = {}
        self.clock = 0  # gdsf: the value of the block that left last
        self.numbers = 0
        self.insertions = 0
        self.lookups: Sequence[Lookup] = ()
        self.now = 0

    def run(self, stream: Stream, *, bypass: bool = False) -> list[int]:
        self.lookups = stream.lookups
        return [self.serve(number, bypass) for number in range(len(stream.lookups))]

    def serve(self, now: int, bypass: bool) -> int:
        self.now = now
        hits, whole = 0, True
        for position, block in enumerate(self.lookups[now].blocks):
            known = next((k for k in self.cached if k.block == block), None)
            if known is not None and not whole:
                continue
            if known is None:
                whole = False
                self.insertions += 1
                known = Known(block, position, self.insertions)
                if len(self.cached) == self.capacity:
                    known.request = now
                    among = [*self.cached, known] if bypass else self.cached
                    victim = min(among, key=lambda k: self.rank(self, k))
                    if victim is known:
                        continue
                    self.cached.remove(victim)
                    self.clock = victim.value
                self.cached.append(known)
            else:
                hits += 1
                known.position = position
            self.numbers += 1
            known.references += 1
            known.reference_number, known.request = self.numbers, now
            known.value = self.clock + known.references
            self.ever[block] = self.ever.get(block, 0) + 1
        return hits

    def next_use(self, block: int) -> float:
        uses = (
            n for n in range(self.now + 1, len(self.lookups)) if block in self.lookups[n].blocks
        )
        return next(uses, inf)


def by_ttl(cache: ListCache, known: Known) -> Any:
    last = cache.lookups[known.request].request
    ttl_s = min(max(TTL["factor"] * last.tool_time_s, TTL["min_s"]), TTL["max_s"])
    expiry_ps = last.arrival_ps + int(ttl_s * PS_PER_S)
    protected = last.tool_time_s >= 0 and cache.lookups[cache.now].request.arrival_ps < expiry_ps
    return (protected, expiry_ps if protected else 0, known.reference_number)


def by_ttl_given_up(cache: ListCache, known: Known) -> Any:
    protected, expiry_ps, number = by_ttl(cache, known)
    announced = cache.lookups[known.request].request.tool_time_s >= 0
    return (1 if protected else -announced, expiry_ps, number)


RANKS: dict[str, tuple[str, dict[str, Any], Callable[[ListCache, Known], Any]]] = {
    "lru": ("lru", {}, lambda c, k: k.reference_number),
    "lfu": ("lfu", {}, lambda c, k: (k.references, k.reference_number)),
    "lfu global": (
        "lfu",
        {"counting": "global"},
        lambda c, k: (c.ever[k.block], k.reference_number),
    ),
    "fifo": ("fifo", {}, lambda c, k: k.insertion),
    "length-aware": (
        "length-aware",
        {},
        lambda c, k: (k.references, -k.position, k.reference_number),
    ),
    "gdsf": ("gdsf", {}, lambda c, k: (k.value, k.reference_number)),
    "session-ttl": ("session-ttl", TTL, by_ttl),
    "session-ttl, late ones first": (
        "session-ttl",
        {**TTL, "expired_first": True},
        by_ttl_given_up,
    ),
}


def as_stream(prompts: list[tuple[int, ...]], gaps: list[int], tools: list[float]) -> Stream:
    """Blocks named by the prefix they end, as in a trace of chained hashes."""
    names: dict[tuple[int, ...], int] = {}
    at_s = 0
    lookups = []
    for number, prompt in enumerate(prompts):
        at_s += gaps[number % len(gaps)] if gaps else 0
        blocks = [names.setdefault(prompt[: i + 1], len(names)) for i in range(len(prompt))]
        tool_time_s = tools[number % len(tools)] if tools else -1.0
        lookups.append(Lookup(request(number, at_s, tool_time_s), blocks))
    return Stream(lookups)


words = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
streams = st.builds(
    as_stream,
    st.lists(words, min_size=1, max_size=40),
    st.lists(st.integers(0, 3), max_size=5),
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.5, 2.0, 4.0]), max_size=5),
)
#: ids that name no prefix, so that blocks are cached behind gaps
loose = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), max_size=40).map(
    lambda rows: Stream([Lookup(request(n, n), row) for n, row in enumerate(rows)])
)
capacities = st.integers(1, 12)


def fresh(name: str, params: dict[str, Any] | None = None) -> Eviction:
    policy: Eviction = eviction.get(name)(**(params or {}))
    return policy


@pytest.mark.parametrize("case", RANKS)
@settings(deadline=None, max_examples=60)
@given(stream=st.one_of(streams, loose), capacity=capacities)
def test_policy_decides_as_its_definition(case: str, stream: Stream, capacity: int) -> None:
    name, params, rank = RANKS[case]
    reference = ListCache(capacity, rank)
    expected = reference.run(stream)
    tested = ReplayCache(capacity, fresh(name, params))
    assert [tested.serve(r, blocks) for r, blocks in stream.lookups] == expected
    assert len(tested) == len(reference.cached)
    assert all(known.block in tested for known in reference.cached)


@settings(deadline=None, max_examples=60)
@given(stream=streams, capacity=capacities)
def test_belady_decides_as_its_definition(stream: Stream, capacity: int) -> None:
    reference = ListCache(capacity, lambda c, k: (-c.next_use(k.block), -k.position))
    policy = fresh("belady")
    policy.attach(stream.future)
    tested = ReplayCache(capacity, policy)
    served = [tested.serve(r, blocks) for r, blocks in stream.lookups]
    assert served == reference.run(stream, bypass=True)


@settings(deadline=None, max_examples=60)
@given(stream=streams, capacity=capacities)
def test_nothing_beats_belady(stream: Stream, capacity: int) -> None:
    bound = replay(stream, fresh("belady"), capacity).hits
    assert bound <= replay(stream, fresh("lru"), inf).hits
    for name, params, _ in RANKS.values():
        assert replay(stream, fresh(name, params), capacity).hits <= bound
    assert replay(stream, fresh("random", {"seed": 1}), capacity).hits <= bound


@settings(deadline=None, max_examples=60)
@given(
    prompts=st.lists(
        st.lists(st.integers(0, 1), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5
    ),
    capacity=st.integers(1, 3),
)
def test_belady_finds_the_most_hits_that_any_choice_finds(
    prompts: list[tuple[int, ...]], capacity: int
) -> None:
    stream = as_stream(prompts, [], [])
    references = [(block, i) for _, row in stream.lookups for i, block in enumerate(row)]

    @cache
    def best(at: int, cached: frozenset[int], whole: bool) -> int:
        if at == len(references):
            return 0
        block, position = references[at]
        whole = whole or position == 0
        if block in cached:
            return whole + best(at + 1, cached, whole)
        options = [cached]  # bypass
        if len(cached) < capacity:
            options.append(cached | {block})
        options += [cached - {victim} | {block} for victim in sorted(cached)]
        return max(best(at + 1, option, False) for option in options)

    assert replay(stream, fresh("belady"), capacity).hits == best(0, frozenset(), True)


@settings(deadline=None, max_examples=60)
@given(stream=streams, capacity=capacities)
@pytest.mark.parametrize("case", RANKS)
def test_the_pool_orders_blocks_as_the_replay_does(
    case: str, stream: Stream, capacity: int
) -> None:
    name, params, _ = RANKS[case]
    policy = fresh(name, params)
    order: IdleOrder[int] = IdleOrder(policy)
    units: dict[int, CachedBlock] = {}
    replayed = ReplayCache(capacity, fresh(name, params))
    insertions = 0
    for asked, blocks in stream.lookups:
        hits, whole = 0, True
        for position, block in enumerate(blocks):
            if block in units and not whole:
                continue
            if block in units:
                hits += 1
                order.remove(block)
                units[block] = units[block]._replace(hits=units[block].hits + 1)
                policy.on_hit(units[block], asked)
            else:
                whole = False
                if len(units) == capacity:
                    policy.on_evict(units.pop(order.pop(asked.arrival_ps)))
                units[block] = CachedBlock(block, position, 1, 0, insertions)
                insertions += 1
                policy.on_insert(units[block], asked)
            order.put(block, policy.key(units[block], asked, asked.arrival_ps))
        assert replayed.serve(asked, blocks) == hits
