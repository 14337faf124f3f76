"""Leaps on and off, runs of blocks and single blocks: the same bytes. And faults that break it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice, product
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InfersimError
from infersim.policies.eviction.lru import Lru
from infersim.policies.types import PS_PER_S, Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.server import Server
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.kv.extents import ExtentPool
from infersim.sim.state.plan import StepPlan
from infersim.sim.state.replica import Replica
from infersim.sim.state.session import Call
from infersim.sim.state.step import StepBuilder

CASES = settings(
    max_examples=80,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    case = lab.random_case(rng)
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_runs_of_blocks_change_no_byte(lab: Any, rng: Random) -> None:
    case = lab.random_case(rng, by_block=False)
    by_run = case.run()
    case.eviction = lab.LruByBlock
    assert lab.differing(by_run, case.run()) == []


def impatient_clients(lab: Any) -> list[Any]:
    """Clients that quote an answer before it is given, while KV is short by a block or none."""
    said, answer = Segment(1, 0, 4), Segment(2, 0, 12)
    cases = []
    for kv, size, asynchronous in product((8, 13, 18, 19, 30, 60), (2, 4), (False, True)):
        limits = EngineLimits(
            kv_blocks=kv,
            block_size=size,
            max_model_len=kv * size,
            max_num_batched_tokens=64,
            async_scheduling=asynchronous,
        )
        first = Call((said,), 40, 2)
        early = Call((said, answer, Segment(3, 0, 9)), 2, 4)
        earlier = Call((said, Segment(2, 0, 25)), 2, 5)
        cases += [
            lab.Case(limits, [(0, first), (2500, early), (at, earlier)])
            for at in (2500, 6000, 20_000)
        ]
    return cases


def protected_blocks(lab: Any) -> list[Any]:
    """An answer so long that protection of KV ends while it grows."""
    cases = []
    for begins_s, ttl_s in product((0.3, 0.5, 0.7, 0.9), (0.5, 1.0, 1.5)):
        limits = EngineLimits(14, block_size=1, max_model_len=14, async_scheduling=False)
        away = lab.call(1, 3, 1, tool_time_s=ttl_s)
        other, grows = lab.call(3, 3, 1), lab.call(5, 1, 11)
        times = (0, 0.1, begins_s, begins_s + 1.5, begins_s + 1.7)
        calls = (away, other, grows, away, other)
        arrivals = [(round(at * PS_PER_S), call) for at, call in zip(times, calls, strict=True)]
        case = lab.Case(limits, arrivals, cost=LinearCost(PS_PER_S // 10))
        case.eviction = lab.EVICTIONS["session-ttl"]
        cases.append(case)
    return cases


def routed_after_evictions(lab: Any) -> list[Any]:
    """A long answer evicts the prefix that the next request would be routed to."""
    cases = []
    for at, eviction, asynchronous in product(range(5, 14), ("lru", "fifo"), (False, True)):
        limits = EngineLimits(
            14,
            block_size=1,
            max_model_len=14,
            max_num_batched_tokens=8,
            async_scheduling=asynchronous,
        )
        first, grows, again = lab.call(1, 6, 1), lab.call(2, 1, 12), lab.call(1, 7, 1)
        arrivals = [(0, first), (3000, grows), (at * 1000, again)]
        case = lab.Case(limits, arrivals, cost=LinearCost(1000), replicas=2)
        case.routing, case.eviction = "prefix-aware", lab.EVICTIONS[eviction]
        cases.append(case)
    return cases


def hits_that_shrink(lab: Any) -> list[Any]:
    """Fifo evicts the head of a hit: then the first chunk fits, since nothing is hit any more."""
    cases = []
    for at, asynchronous in product(range(6, 12), (False, True)):
        limits = EngineLimits(
            14,
            block_size=1,
            max_model_len=14,
            max_num_batched_tokens=6,
            async_scheduling=asynchronous,
        )
        first, grows, again = lab.call(1, 6, 1), lab.call(2, 1, 12), lab.call(1, 9, 1)
        arrivals = [(0, first), (2000, grows), (at * 1000, again)]
        case = lab.Case(limits, arrivals, cost=LinearCost(1000))
        case.eviction, case.scheduler = lab.EVICTIONS["fifo"], {"reserve_full_isl": False}
        cases.append(case)
    return cases


FAMILIES = [impatient_clients, protected_blocks, routed_after_evictions, hits_that_shrink]


@pytest.mark.parametrize("family", FAMILIES)
def test_leaps_change_no_byte_where_it_is_tight(lab: Any, family: Any) -> None:
    for case in family(lab):
        assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


def test_runs_of_blocks_serve_quotes_of_the_future(lab: Any) -> None:
    for case in impatient_clients(lab):
        by_run = case.run()
        case.eviction = lab.LruByBlock
        assert lab.differing(by_run, case.run()) == []


@pytest.mark.parametrize("eviction", ["lfu", "fifo", "session-ttl", "lru", "random"])
def test_leaps_change_no_byte_under_each_eviction(lab: Any, eviction: str) -> None:
    for seed in range(12):
        case = lab.random_case(Random(seed))
        case.eviction = lab.EVICTIONS[eviction]
        assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


@pytest.mark.parametrize("router", range(6), ids=lambda i: f"router{i}")
def test_leaps_change_no_byte_under_each_router(lab: Any, router: int) -> None:
    for seed in range(100, 112):
        case = lab.random_case(Random(seed))
        case.routing, case.replicas = lab.ROUTERS[router], 3
        assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


def test_the_same_seed_gives_the_same_bytes(lab: Any) -> None:
    for seed in range(10):
        assert lab.differing(*(lab.random_case(Random(seed)).run() for _ in range(2))) == []


def test_the_cases_reach_what_they_should(lab: Any) -> None:
    """Byte-identity of runs in which nothing happens would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(60):
        case = lab.random_case(Random(seed))
        out = case.run()
        rows, totals = out.requests, out.totals
        seen["leapt"] += out.effort.leapt_steps
        seen["preempted"] += totals["preemptions"]
        seen["evicted"] += totals["evicted_blocks"]
        seen["refused"] += int((rows["status"] == "failed").sum())
        seen["hit"] += int((rows["hit_tokens"] > 0).sum())
        seen["moved"] += int((rows["transfer_bytes"] > 0).sum())
        seen["later turns"] += int((rows["turn"] > 0).sum())
        seen["ties"] += len(rows["arrival_ps"]) - len(set(rows["arrival_ps"].tolist()))
        seen["samples"] += len(out.series["t_ps"])
        seen["asynchronous"] += case.limits.async_scheduling
    assert all(count > 20 for count in seen.values()), seen
    assert seen["leapt"] > 1000


# ---- planted faults ----


def leap_one_step_too_far(patch: pytest.MonkeyPatch, lab: Any) -> None:
    real = Replica.repeats
    patch.setattr(Replica, "repeats", lambda self, plan: real(self, plan) + 1)


def arrivals_do_not_cut(patch: pytest.MonkeyPatch, lab: Any) -> None:
    real = Server._stir
    patch.setattr(Server, "_stir", lambda self: None if self.replica.in_flight else real(self))


def arrived_kv_does_not_cut(patch: pytest.MonkeyPatch, lab: Any) -> None:
    real = Server.tell

    def tell(self: Server, message: Any) -> None:
        if self.replica.in_flight:
            self._inbox.append(message)
        else:
            real(self, message)

    patch.setattr(Server, "tell", tell)


def growing_hits_do_not_end_a_leap(patch: pytest.MonkeyPatch, lab: Any) -> None:
    real = ExtentPool.match
    patch.setattr(Replica, "next_block_is_growing", lambda self, seq, blocks: False)
    patch.setattr(
        ExtentPool, "match", lambda self, *args: real(self, *args)._replace(may_grow=False)
    )


def shrinking_hits_do_not_end_a_leap(patch: pytest.MonkeyPatch, lab: Any) -> None:
    real = StepBuilder._allocate

    def allocate(self: StepBuilder, *args: Any, **given: Any) -> int | None:
        before = self.replica.unsettled
        start = real(self, *args, **given)
        self.replica.unsettled = before
        return start

    patch.setattr(StepBuilder, "_allocate", allocate)


def boundaries_of_one_instant_are_confused(patch: pytest.MonkeyPatch, lab: Any) -> None:
    patch.setattr(Server, "_instant", lambda self: self._clock.now_ps)


def lines_never_bend(patch: pytest.MonkeyPatch, lab: Any) -> None:
    def line(self: Any, *args: int) -> Any:
        return real(self, *args)._replace(until=1 << 60)

    real = lab.SteppedCost.decode_line
    patch.setattr(lab.SteppedCost, "decode_line", line)


def readers_see_the_end_of_the_leap(patch: pytest.MonkeyPatch, lab: Any) -> None:
    def kv_now(self: Server) -> tuple[int, int]:
        plans = self.replica.in_flight
        steps = plans[-1].index + plans[-1].repeat if plans else self.replica.step_index
        return self.replica.kv_at(steps)

    patch.setattr(Server, "kv_now", kv_now)


def gaps_forget_the_wait_before_a_leap(patch: pytest.MonkeyPatch, lab: Any) -> None:
    def log_gaps(self: Server, members: int, span: Any, steps: int) -> None:
        self.replica.gaps.add(span.first_ps, span.growth_ps, 1, members * steps)

    patch.setattr(Server, "_log_gaps", log_gaps)


def evictions_are_asked_after_the_leap(patch: pytest.MonkeyPatch, lab: Any) -> None:
    patch.setattr(
        StepPlan, "planned_ps", property(lambda self: None, lambda self, value: None), raising=False
    )


def routers_see_the_index_of_the_leaps_start(patch: pytest.MonkeyPatch, lab: Any) -> None:
    patch.setattr(Server, "catch_up", lambda self: None)


def random_cases(lab: Any) -> Iterator[Any]:
    """Cases of all kinds, without end."""
    for seed in count():
        yield lab.random_case(Random(seed))


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch, Any], None], Callable[[Any], Iterable[Any]]]] = [
    (leap_one_step_too_far, random_cases),
    (arrivals_do_not_cut, random_cases),
    (arrived_kv_does_not_cut, random_cases),
    (growing_hits_do_not_end_a_leap, impatient_clients),
    (shrinking_hits_do_not_end_a_leap, hits_that_shrink),
    (boundaries_of_one_instant_are_confused, random_cases),
    (lines_never_bend, random_cases),
    (readers_see_the_end_of_the_leap, random_cases),
    (gaps_forget_the_wait_before_a_leap, random_cases),
    (evictions_are_asked_after_the_leap, protected_blocks),
    (routers_see_the_index_of_the_leaps_start, routed_after_evictions),
]


def noticed(lab: Any, case: Any) -> bool:
    try:
        return bool(lab.differing(case.run(leap=True, check=False), case.run(leap=False)))
    except (InfersimError, AssertionError, IndexError):  # a broken engine may stumble
        return True


@pytest.mark.parametrize(("plant", "cases"), FAULTS, ids=lambda x: x.__name__)
def test_a_planted_fault_is_noticed(
    plant: Any, cases: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, lab)
    found = (noticed(lab, case) for case in islice(cases(lab), 300))
    assert any(found)


# ---- faults of one KV pool ----


def growing_runs_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExtentPool, "_catch_up", lambda self, node: None)


def merged_runs_keep_their_old_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExtentPool, "_mergeable", lambda self, node, below: below is not None)


def later_copies_are_freed_first(patch: pytest.MonkeyPatch) -> None:
    real = ExtentPool._push
    patch.setattr(ExtentPool, "_push", lambda self, copy, release: real(self, copy, -release))


def displaced_members_stay_in_the_group(patch: pytest.MonkeyPatch) -> None:
    real = ExtentPool._displace

    def displace(self: ExtentPool, *args: Any) -> None:
        real(self, *args)
        self.displaced = False

    patch.setattr(ExtentPool, "_displace", displace)


def pools_differ(case: Any, lab: Any) -> bool:
    try:
        case.eviction = Lru
        by_run = case.run(check=False)
        case.eviction = lab.LruByBlock
        return bool(lab.differing(by_run, case.run(check=False)))
    except (InfersimError, AssertionError, IndexError):
        return True


@pytest.mark.parametrize(
    "plant",
    [
        growing_runs_are_not_looked_at,
        merged_runs_keep_their_old_place,
        later_copies_are_freed_first,
        displaced_members_stay_in_the_group,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_fault_of_one_pool_is_noticed(
    plant: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    cases = chain(impatient_clients(lab), islice(random_cases(lab), 300))
    assert any(pools_differ(case, lab) for case in cases)
