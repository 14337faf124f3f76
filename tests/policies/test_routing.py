"""Each router against its rule, on a cluster that is a table."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest

from infersim.policies import registry
from infersim.policies.errors import UnknownNameError
from infersim.policies.routing.affinity import PrefixAware
from infersim.policies.routing.base import Router
from infersim.policies.types import Request


class Replica(NamedTuple):
    """A replica as a router sees it."""

    id: int
    waiting: int = 0
    running: int = 0
    kv_used: float = 0.0
    age_ps: int = 0


class Cluster:
    """Replicas, and the tokens of any prompt that each of them holds."""

    now = 0

    def __init__(self, *loads: int, hits: tuple[int, ...] = (), first: int = 0) -> None:
        self.replicas = [
            Replica(first + i, waiting=load // 2, running=load - load // 2)
            for i, load in enumerate(loads)
        ]
        self._hits, self._first = hits or (0,) * len(loads), first

    def prefix_hit_tokens(self, replica: int, request: Request) -> int:
        return self._hits[replica - self._first]


def request(session: int = -1, tokens: int = 100) -> Request:
    return Request(0, 0, (), tokens, 10, 0, session=session)


def router(name: str, seed: int = 0, **fields: Any) -> Router:
    made: Router = registry.routing.get(name)(**fields)
    made.rng = np.random.default_rng(seed)
    return made


def routes(made: Router, cluster: Cluster, count: int, **given: Any) -> list[int]:
    return [made.route(request(**given), cluster) for _ in range(count)]


def test_there_are_these_routers() -> None:
    names = {name for name, _ in registry.routing}
    assert names >= {
        "round-robin",
        "random",
        "least-outstanding",
        "power-of-two",
        "session-sticky",
        "prefix-aware",
    }
    with pytest.raises(UnknownNameError, match="round-robin"):
        registry.routing.get("round-robbin")


def test_round_robin_takes_turns_whatever_the_load() -> None:
    assert routes(router("round-robin"), Cluster(9, 0, 3), 7) == [0, 1, 2, 0, 1, 2, 0]
    assert routes(router("round-robin"), Cluster(1, 1, first=4), 3) == [4, 5, 4]


def test_random_is_even_and_repeats_with_its_seed() -> None:
    chosen = routes(router("random"), Cluster(9, 0, 3), 3000)
    assert chosen == routes(router("random"), Cluster(0, 0, 0), 3000)
    assert chosen != routes(router("random", seed=1), Cluster(0, 0, 0), 3000)
    assert all(900 < count < 1100 for count in Counter(chosen).values())
    assert len(set(chosen)) == 3


def test_least_outstanding_counts_all_and_takes_the_first_of_equals() -> None:
    least = router("least-outstanding")
    assert least.route(request(), Cluster(5, 2, 3)) == 1
    assert least.route(request(), Cluster(5, 2, 2)) == 1
    assert least.route(request(), Cluster(1, 1, first=7)) == 7


def test_power_of_two_is_the_better_of_two_different_draws() -> None:
    """The best of four is drawn in half of all pairs, the worst never wins."""
    chosen = Counter(routes(router("power-of-two"), Cluster(4, 3, 2, 1), 6000))
    assert chosen[0] == 0
    for replica, share in ((3, 1 / 2), (2, 1 / 3), (1, 1 / 6)):
        assert chosen[replica] == pytest.approx(6000 * share, rel=0.1)
    assert routes(router("power-of-two"), Cluster(9), 3) == [0, 0, 0]
    assert set(routes(router("power-of-two"), Cluster(1, 1), 50)) == {0}  # ties go to the lower id


def test_sessions_stay_where_they_began() -> None:
    sticky = router("session-sticky")
    assert sticky.route(request(session=3), Cluster(5, 1)) == 1
    assert sticky.route(request(session=3), Cluster(0, 99)) == 1
    assert sticky.route(request(session=4), Cluster(0, 99)) == 0
    assert routes(sticky, Cluster(0, 99), 2) == [0, 0]  # without a session: least loaded
    assert routes(sticky, Cluster(99, 0), 1) == [1]


def test_each_pool_has_turns_and_homes_of_its_own() -> None:
    """A split request is routed twice, among prefill and among decode replicas."""
    prefill, decode = Cluster(0, 0), Cluster(0, 0, first=2)
    turns, sticky = router("round-robin"), router("session-sticky")
    chosen = [(turns.route(request(), pool)) for _ in range(3) for pool in (prefill, decode)]
    assert chosen == [0, 2, 1, 3, 0, 2]
    assert sticky.route(request(session=3), prefill) == 0
    assert sticky.route(request(session=3), Cluster(1, 0, first=2)) == 3
    assert sticky.route(request(session=3), Cluster(9, 0)) == 0
    assert sticky.route(request(session=3), Cluster(0, 9, first=2)) == 3


def test_prefix_aware_follows_the_longest_prefix() -> None:
    aware = router("prefix-aware")
    assert aware.route(request(), Cluster(3, 3, 3, hits=(60, 80, 70))) == 1
    assert aware.route(request(), Cluster(3, 2, 3, hits=(80, 80, 80))) == 1  # less load
    assert aware.route(request(), Cluster(3, 3, 3, hits=(80, 80, 80))) == 0


@pytest.mark.parametrize(("hit", "chosen"), [(50, 2), (51, 0), (100, 0)])
def test_a_match_counts_above_the_threshold(hit: int, chosen: int) -> None:
    assert router("prefix-aware").route(request(), Cluster(9, 9, 8, hits=(hit, 0, 0))) == chosen
    always = router("prefix-aware", cache_threshold=0.0)
    assert always.route(request(), Cluster(9, 9, 8, hits=(1, 0, 0))) == 0
    assert always.route(request(), Cluster(9, 9, 8)) == 2


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        ((32, 0), 0),  # leads by no more than balance_abs
        ((33, 0), 1),  # by more, and by more than the factor
        ((440, 400), 0),  # 1.1 times as many: in balance
        ((441, 400), 1),
    ],
)
def test_load_out_of_balance_overrules_the_match(loads: tuple[int, int], chosen: int) -> None:
    assert router("prefix-aware").route(request(), Cluster(*loads, hits=(100, 0))) == chosen


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_threshold": 1.1},
        {"cache_threshold": -0.1},
        {"balance_abs": -1},
        {"balance_rel": 0.9},
    ],
)
def test_thresholds_are_checked(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(fields.values())))):
        PrefixAware(**fields)


def test_the_base_router_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError):
        Router().route(request(), Cluster(1))
