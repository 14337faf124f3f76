"""A trace through a cluster's pools decides as the simulator does, and as pools kept on lists."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from random import Random
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.policies.eviction.base import Eviction, Key
from infersim.policies.registry import eviction, routing
from infersim.policies.types import CachedBlock, Request
from infersim.scenarios import build, grid, load
from infersim.scenarios.cache.cluster import Cluster, Placed, Shape, futures
from infersim.scenarios.cache.visits import Visits, visits_of
from infersim.scenarios.traces.load import load as load_trace
from infersim.scenarios.traces.source import Options
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.kv.queued import QueuedOrder
from infersim.sim.state.sequence import Sequence

SIZE = 4  #: tokens in a block
NAMES = [name for name, _ in eviction]


def write(path: Path, rows: list[list[int]], gap_ms: int = 60_000) -> Path:
    """A trace of prompts of whole blocks."""
    lines = [
        {
            "timestamp": gap_ms * n,
            "input_length": SIZE * len(ids),
            "output_length": 1,
            "hash_ids": ids,
        }
        for n, ids in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def prompts(seed: int, count: int) -> list[list[int]]:
    """Prompts that share prefixes: paths down a random tree."""
    random = Random(seed)
    fresh, paths = iter(range(1, 10_000)), [[0]]
    for _ in range(count):
        old = random.choice(paths[-12:])
        stem = old[: random.randint(1, len(old))]
        paths.append([*stem, *(next(fresh) for _ in range(random.randint(0, 4)))])
    return paths[1:]


@pytest.fixture
def visits(tmp_path: Path) -> Callable[[list[list[int]]], Visits]:
    def read(rows: list[list[int]]) -> Visits:
        trace = load_trace(write(tmp_path / "t.jsonl", rows), options=Options(block_size=SIZE))
        return visits_of(trace, 60.0)

    return read


class Listed:
    """Idle units on one list, searched from end to end: what every other order is compared with."""

    def __init__(self, policy: Eviction, cached: Callable[[int], CachedBlock]) -> None:
        self._policy, self._cached = policy, cached
        self._units: list[tuple[Key, int, int]] = []
        self._turns: dict[int, tuple[int, Key]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._units)

    def put(self, unit: int, key: Key) -> None:
        self._count += 1
        self._units.append((key, self._count, unit))

    def add(self, units: list[int], keys: Iterable[Key]) -> None:
        for unit, key in zip(units, keys, strict=False):
            self.put(unit, key)

    def add_alike(self, units: list[int], key: Key) -> None:
        self.add(units, repeat(key))

    def remove_all(self, units: list[int]) -> None:
        self._units = [entry for entry in self._units if entry[2] not in units]

    def _first(self, queue: int) -> tuple[Key, int, int]:
        return min(entry for entry in self._units if entry[0][0] == queue)

    @property
    def lengths(self) -> Counter[int]:
        return Counter(key[0] for key, _, _ in self._units)

    def head(self, queue: int) -> CachedBlock:
        return self._cached(self._first(queue)[2])

    def place(self, queue: int) -> tuple[Key, int]:
        key, count, _ = self._first(queue)
        return key[1:], count

    def pop_all(self, units: int, now: int) -> list[int]:
        if self._policy.promise.dynamic:
            self._units = [(self._turned(key, now), n, unit) for key, n, unit in self._units]
        gone, self._units = sorted(self._units)[:units], sorted(self._units)[units:]
        return [unit for _, _, unit in gone]

    def _turned(self, key: Key, now: int) -> Key:
        turn = self._policy.next_key(key)
        return key if turn is None or turn[0] > now else self._turned(turn[1], now)

    def units(self) -> list[int]:
        return [unit for _, _, unit in sorted(self._units)]


class ListedQueues(Listed, QueuedOrder[int]):  # type: ignore[misc]
    """The same of several queues."""

    def pop_all(self, units: int, on_evict: Any) -> list[int]:  # type: ignore[override]
        return [self._given_up(self._policy, on_evict) for _ in range(units)]

    def _given_up(self, policy: Any, on_evict: Any) -> int:
        while True:
            entry = self._first(policy.pick(self))
            self._units.remove(entry)
            block = self._cached(entry[2])
            again = policy.spare(block, entry[0])
            if again is None:
                on_evict(block)
                return entry[2]
            self.put(entry[2], again)


class Told(Eviction):
    """A policy that is asked block by block, about blocks that know only what it declares."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.promise = policy.promise  # type: ignore[misc]
        self.observes = policy.observes  # type: ignore[misc]

    def _known(self, block: CachedBlock) -> Any:
        return block if self.policy.reads is None else Known(block, self.policy.reads)

    def key(self, block: CachedBlock, request: Request | None, now: int) -> Key:
        found: Key = self.policy.key(self._known(block), request, now)
        return found

    def next_key(self, key: Key) -> Any:
        return self.policy.next_key(key)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        self.policy.on_insert(self._known(block), request)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self.policy.on_hit(self._known(block), request)

    def on_evict(self, block: CachedBlock) -> None:
        self.policy.on_evict(self._known(block))

    def pick(self, queues: Any) -> Any:
        return self.policy.pick(queues)

    def spare(self, block: CachedBlock, key: Key) -> Any:
        return self.policy.spare(self._known(block), key)


class Known:
    """The declared fields of a block; any other is an error."""

    def __init__(self, block: CachedBlock, fields: frozenset[str]) -> None:
        self._block, self._fields = block, fields

    def __getattr__(self, name: str) -> Any:
        assert name in self._fields, f"{name} is not declared in reads"
        return getattr(self._block, name)


def decisions(cluster: Cluster, visits: Visits, make: Callable[[int], BlockPool]) -> Any:
    """What every replica evicted, in order, what is left in which order, and who hit what."""
    for replica in cluster.replicas:
        replica.pool = pool = make(replica.id)
        pool.evicted_keys = []
    outcome = cluster.serve(visits.requests)
    pools: list[Any] = [replica.pool for replica in cluster.replicas]
    return outcome, [(pool.evicted_keys, pool.queue(), pool.check()) for pool in pools]


@pytest.mark.parametrize("name", NAMES)
def test_every_eviction_decides_as_on_a_list(
    name: str, visits: Callable[[list[list[int]]], Visits]
) -> None:
    stream = visits(prompts(1, 120))
    shape = Shape(2, 24, SIZE, in_flight=3)
    placed = [number % 2 for number in range(len(stream.requests))]

    def policy(replica: int) -> Any:
        made = eviction.get(name)()
        if made.promise.oracle:
            made.attach(futures(stream.requests, placed, shape)[replica])
        return made

    def fast(replica: int) -> BlockPool:
        return BlockPool(shape.blocks, SIZE, policy(replica))

    def slow(replica: int) -> BlockPool:
        told = Told(policy(replica))
        pool = BlockPool(shape.blocks, SIZE, told)
        listed = ListedQueues if told.promise.queues else Listed
        pool._idle = listed(told, pool._cached)  # type: ignore[assignment]
        return pool

    mine, theirs = (
        decisions(Cluster(shape, policy, Placed(placed)), stream, make) for make in (fast, slow)
    )
    assert mine[0].evicted_blocks > 50
    assert mine[0] == theirs[0]
    # of idle queues only what leaves next is an order; of lines, all
    assert [(keys, held) for keys, _, held in mine[1]] == [
        (keys, held) for keys, _, held in theirs[1]
    ]
    assert [sorted(queue) for _, queue, _ in mine[1]] == [
        sorted(queue) for _, queue, _ in theirs[1]
    ]


SCENARIO = """
name: one
cluster:
  gpu: h100-sxm
  model: llama-3.1-8b
  replicas: 2
  kv_blocks: 24
  block_size: 4
  engine: {max_model_len: 92, max_num_batched_tokens: 4096, async_scheduling: false}
workload: {kind: trace, file: t.jsonl, format: mooncake, block_size: 4}
policies: {eviction: NAME, routing: ROUTER}
"""


# the draws of random depend on how contents are numbered, and here nobody numbers answers
@pytest.mark.parametrize(
    ("name", "router"),
    [("lru", "prefix-aware"), ("sieve", "prefix-aware")]
    + [(name, "round-robin") for name in sorted({*NAMES} - {"belady", "random"})],
)
def test_requests_far_apart_hit_as_in_the_simulator(name: str, router: str, tmp_path: Path) -> None:
    rows = [ids for ids in prompts(3, 80) if len(ids) < 20]
    write(tmp_path / "t.jsonl", rows)
    text = SCENARIO.replace("NAME", name).replace("ROUTER", router)
    (tmp_path / "s.yaml").write_text(text, "utf-8")
    source = load.read(str(tmp_path / "s.yaml"))
    (cell,) = grid.cells(source)[1]
    records = build.simulate_cell(cell, source.folders, leap=True, progress=lambda *_: None).records
    trace = load_trace(tmp_path / "t.jsonl", options=Options(block_size=SIZE))
    shape = Shape(2, 23, SIZE, in_flight=1)  # vLLM keeps one block for padding
    outcome = Cluster(shape, lambda _: eviction.get(name)(), routing.get(router)()).serve(
        visits_of(trace, 60.0).requests
    )
    assert outcome.placed == records.requests["replica"].tolist()
    assert outcome.hit_tokens == records.requests["hit_tokens"].sum() > 0
    assert outcome.evicted_blocks == records.totals["evicted_blocks"] > 0


def test_pools_of_two_block_sizes_ask_one_sequence_for_its_keys(
    visits: Callable[[list[list[int]]], Visits],
) -> None:
    first, second = visits([[1, 2, 3, 4], [1, 2, 3, 9]]).requests
    pools = [BlockPool(8, size, eviction.get("fifo")()) for size in (SIZE, 2 * SIZE)]
    for pool in pools:
        held = Sequence(first.request, 1, first.chain, 99)
        pool.acquire(held, None, 4)
        pool.commit(held, SIZE)  # the keys are asked for bit by bit
        pool.commit(held, 4 * SIZE)
    asks = Sequence(second.request, 1, second.chain, 99)
    assert [pool.match(asks, 4 * SIZE).blocks for pool in (*pools, *pools)] == [3, 1, 3, 1]
    assert pools[0].match(asks, 2 * SIZE).blocks == 2


def test_requests_in_flight_keep_their_blocks_and_leave_early_only_where_they_must(
    visits: Callable[[list[list[int]]], Visits],
) -> None:
    stream = visits([[1, 2], [3, 4], [5, 6], [1, 2], [7, 8, 9, 10, 11, 12]])
    cluster = Cluster(Shape(1, 5, SIZE, 64), lambda _: eviction.get("lru")(), Placed([0] * 5))
    outcome = cluster.serve(stream.requests)
    # the third pushes the first out of flight and its tail out of the cache: the head still hits
    assert (outcome.hit_tokens, outcome.refused) == (SIZE, 1)
    assert [replica.running for replica in cluster.replicas] == [2]


def test_the_last_token_of_a_prompt_is_always_computed(
    visits: Callable[[list[list[int]]], Visits],
) -> None:
    stream = visits([[1, 2, 3], [1, 2, 3]])
    cluster = Cluster(Shape(1, 9, SIZE, 1), lambda _: eviction.get("lru")(), Placed([0, 0]))
    assert cluster.serve(stream.requests).hit_tokens == 2 * SIZE


def test_routers_see_requests_in_flight_as_load(
    visits: Callable[[list[list[int]]], Visits],
) -> None:
    stream = visits([[n] for n in range(8)])
    cluster = Cluster(
        Shape(3, 9, SIZE, 2),
        lambda _: eviction.get("lru")(),
        routing.get("least-outstanding")(),
    )
    assert cluster.serve(stream.requests).placed == [0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("field", Shape._fields)
def test_a_cluster_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} must be at least 1, found 0"):
        Cluster(
            Shape(1, 1, 1, 1)._replace(**{field: 0}),
            lambda _: eviction.get("lru")(),
            Placed([]),
        )
