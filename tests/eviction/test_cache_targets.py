"""Hit rates of the Mooncake conversation trace against independently computed figures."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from infersim.scenarios.cache.grid import replay_grid
from infersim.scenarios.cache.names import parse_evictions
from infersim.scenarios.cache.replay import Row
from infersim.scenarios.cache.stream import Stream, stream_of
from infersim.scenarios.traces.load import load

TRACE = Path(__file__).parents[2].parent / "shared/traces/mooncake_conversation_trace.jsonl.gz"
pytestmark = pytest.mark.skipif(not TRACE.is_file(), reason="the shared traces are not here")

CAPACITIES = (inf, 100_000, 50_000, 30_000, 10_000, 5_859, 1_000)
EXPECTED = {
    "lru": (0.366, 0.364, 0.355, 0.326, 0.211, 0.136, 0.044),
    "lfu": (0.366, 0.363, 0.344, 0.276, 0.132, 0.097, 0.048),
    "lfu(counting=global)": (0.366, 0.363, 0.343, 0.280, 0.188, 0.151, 0.081),
    "fifo": (0.366, 0.356, 0.334, 0.294, 0.181, 0.125, 0.043),
    "length-aware": (0.366, 0.334, 0.260, 0.203, 0.112, 0.086, 0.050),
    "belady": (0.3664, 0.3664, 0.3664, 0.3664, 0.3664, 0.3532, 0.1907),
}
LRU_ELSEWHERE = {45_697: 0.3536, 91_395: 0.3634, 137_092: 0.3660}


@pytest.fixture(scope="module")
def mooncake() -> Stream:
    return stream_of(load(TRACE))


def measured(stream: Stream, name: str, capacity: float) -> Row:
    (row,) = replay_grid(stream, parse_evictions(name), [capacity])
    return row


def check(stream: Stream, capacity: float, *names: str) -> None:
    """The expected figures, and Belady (which must be among *names*) above all of them."""
    at = CAPACITIES.index(capacity)
    hits = {}
    for name in names:
        row = measured(stream, name, capacity)
        assert row.references == 288_500
        assert row.hit_rate == pytest.approx(EXPECTED[name][at], abs=0.001), name
        hits[name] = row.hits
    assert max(hits.values()) == hits["belady"]


@pytest.mark.parametrize("capacity", [inf, 1_000])
def test_every_policy_hits_as_often_as_expected(mooncake: Stream, capacity: float) -> None:
    check(mooncake, capacity, *EXPECTED)


def test_belady_is_not_yet_ideal_where_the_cache_is_scarce(mooncake: Stream) -> None:
    check(mooncake, 5_859, "lfu(counting=global)", "belady")


def test_lru_at_a_capacity_computed_elsewhere(mooncake: Stream) -> None:
    row = measured(mooncake, "lru", 45_697)
    assert row.hit_rate == pytest.approx(LRU_ELSEWHERE[45_697], abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_the_whole_grid(mooncake: Stream, capacity: float) -> None:
    check(mooncake, capacity, *EXPECTED)
    bound = measured(mooncake, "belady", capacity).hits
    for name in ("gdsf", "random", "session-ttl"):
        assert measured(mooncake, name, capacity).hits <= bound, name


@pytest.mark.slow
@pytest.mark.parametrize("capacity", LRU_ELSEWHERE)
def test_lru_at_every_capacity_computed_elsewhere(mooncake: Stream, capacity: int) -> None:
    row = measured(mooncake, "lru", capacity)
    assert row.hit_rate == pytest.approx(LRU_ELSEWHERE[capacity], abs=0.001)
