"""Preempted requests in host memory: bytes and seconds, books, and that leaps change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import IllegalPlanError, InfersimError, NoProgressError
from infersim.policies.eviction.lru import Lru
from infersim.policies.registry import FAMILIES
from infersim.policies.scheduling.order import LastAdmitted, LowestPriority
from infersim.policies.scheduling.preemptive import Preemptive
from infersim.policies.scheduling.prefill_first import PrefillFirst
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import Segment
from infersim.sim.cost.grades import DATASHEET, GRADES, delayed
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import EngineLimits, OffloadLimits
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.build import make_pool
from infersim.sim.state.plan import StepPlan
from infersim.sim.state.queue import FifoQueue
from infersim.sim.state.replica import Replica
from infersim.sim.state.sequence import Sequence, Status
from infersim.sim.state.session import Call
from infersim.sim.state.steps import StepLog
from infersim.sim.state.swap import SwapSpace

CASES = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
S = 10**12


def run(case: Any, space: OffloadLimits | None, *, leap: bool = True, order: Any = None) -> Outcome:
    """Simulate *case* with swap space for every scheduler of its cluster."""
    config = case.config()
    pools = [replace(pool, swap=space) for pool in config.pools]
    if order is not None:
        pools = [replace(pool, make_order=order) for pool in pools]
    return simulate(replace(config, pools=tuple(pools)), case.clients(), leap=leap, check=True)


# ---- closed forms -------------------------------------------------------------------------------


def two_requests(lab: Any, **given: Any) -> Any:
    """Eight blocks of 4 tokens; prompts of 13 and 9 tokens, answers of 12 and 6.

    Step 0 prefills both, 7 blocks. At step 4 both want another: the first takes the last, and the
    second, admitted last, gives way with 12 tokens in 3 blocks.
    """
    plain: dict[str, Any] = {"block_size": 4, "max_model_len": 32, "max_num_batched_tokens": 64}
    plain |= {"prefix_caching": False, "async_scheduling": False}
    case = lab.Case(
        EngineLimits(8, **(plain | given)),
        [(0, lab.call(1, 13, 12)), (0, lab.call(2, 9, 6))],
        cost=LinearCost(1000),
        kv_bytes_per_token=5,
    )
    case.make_scheduler = partial(PrefillFirst, preemption="swap")
    return case


def test_a_leak_is_seen_on_whichever_replica_it_is(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that stay taken on the first of two replicas end the run with its number."""
    config = two_requests(lab).config()
    spaces: list[SwapSpace] = []
    check = SwapSpace.check

    def planted(space: SwapSpace) -> int:
        if space not in spaces:
            spaces.append(space)
        return check(space) + (space is spaces[0])

    monkeypatch.setattr(SwapSpace, "check", planted)
    pools = tuple(
        replace(pool, swap=OffloadLimits(3, latency_ps=7, bytes_per_s=S), replicas=2)
        for pool in config.pools
    )
    with pytest.raises(InfersimError, match="replica 0 leaked swap space: 1 slots"):
        simulate(replace(config, pools=pools), two_requests(lab).clients())


@pytest.mark.parametrize("leap", [False, True], ids=["steps", "leaps"])
def test_one_request_out_and_in(lab: Any, leap: bool) -> None:
    """3 blocks × 4 tokens × 5 bytes = 60 bytes at 10¹²/s are 60 ps, and 7 of latency, each way."""
    case = two_requests(lab)
    space = OffloadLimits(3, latency_ps=7, bytes_per_s=S)
    out = run(case, space, leap=leap)
    rows, totals = out.requests, out.totals
    # the first answers with its 12th token at the end of step 11; both copies lie before that
    # (out) and after it (in), since it never lets go of the blocks that the second needs
    first = 12 * 1000 + 67
    assert rows["finish_ps"].tolist() == [first, first + 67 + 2 * 1000]
    assert rows["preemptions"].tolist() == [0, 1]
    assert rows["recomputed_tokens"].tolist() == [0, 0]
    assert rows["swapped_bytes"].tolist() == [0, 120]
    assert rows["transfer_bytes"].tolist() == [0, 0]
    assert {name: value for name, value in totals.items() if "swap" in name} == {
        "swapped_out": 1,
        "swapped_in": 1,
        "swap_out_bytes": 60,
        "swap_in_bytes": 60,
        "swap_refused": 0,
        "swap_ps": 134,
    }
    assert totals["simulated_ps"] == totals["busy_ps"] == first + 67 + 2000
    assert totals["link_bytes"] == 0


def test_recomputing_the_same_request(lab: Any) -> None:
    case = two_requests(lab)
    case.make_scheduler = PrefillFirst
    rows = run(case, None).requests
    assert rows["finish_ps"].tolist() == [12_000, 12_000 + 2 * 1000]
    assert rows["recomputed_tokens"].tolist() == [0, 12]
    assert rows["swapped_bytes"].tolist() == [0, 0]


def test_a_full_host_computes_again(lab: Any) -> None:
    out = run(two_requests(lab), OffloadLimits(2, 7, S))
    assert out.totals["swap_refused"] == 1
    assert out.totals["swap_ps"] == out.totals["swapped_out"] == out.totals["swap_in_bytes"] == 0
    assert out.requests["recomputed_tokens"].tolist() == [0, 12]
    assert out.requests["swapped_bytes"].tolist() == [0, 0]


def test_a_slower_link_delays_by_what_it_takes_longer(lab: Any) -> None:
    ends = [
        int(run(two_requests(lab), OffloadLimits(9, 0, rate)).totals["simulated_ps"])
        for rate in (S, S // 10, S // 7)
    ]
    assert ends == [14_120, 14_000 + 2 * 600, 14_000 + 2 * 421]  # rounded up


def test_what_stays_cached_is_shared_again(lab: Any) -> None:
    """With a prefix cache its full blocks are still there, and are counted once; copied all."""
    case = two_requests(lab, prefix_caching=True)
    twin = Call(case.arrivals[1][1].prompt, 6, 99)
    case.arrivals.append((0, twin))  # shares two blocks of its prompt and outlives it
    case.limits = replace(case.limits, kv_blocks=9)
    for eviction in (Lru, lab.LruByBlock):
        case.eviction = eviction
        one, other = (run(case, OffloadLimits(50, 7, S), leap=leap) for leap in (True, False))
        assert lab.differing(one, other) == []
        totals = one.totals
        assert totals["swapped_out"] == totals["swapped_in"] > 0
        assert totals["swap_out_bytes"] == totals["swap_in_bytes"] > 0
        assert one.requests["recomputed_tokens"].tolist() == [0, 0, 0]


def test_the_step_log_tells_a_swap_from_a_recompute(lab: Any) -> None:
    logs = []
    for space in (OffloadLimits(3, 7, S), OffloadLimits(2, 7, S)):
        config, log = two_requests(lab).config(), StepLog()
        config = replace(config, pools=(replace(config.pools[0], swap=space),))
        simulate(config, two_requests(lab).clients(), trace=log)
        logs.append(log.arrays())
    swaps, computes = logs
    assert sum(swaps["preempted"]) == sum(computes["preempted"]) == 1
    assert sum(swaps["admitted"]) == 2  # it comes back without a lookup
    assert sum(computes["admitted"]) == 3
    at = int(swaps["preempted"].argmax())
    assert swaps["end_ps"][at] - swaps["start_ps"][at] == 1067
    assert swaps["digest"][at] != computes["digest"][at]


def test_copies_are_graded_as_the_datasheet() -> None:
    doubt = (5, 0, 0, 2, 1)
    assert len(doubt) == len(GRADES)
    found = delayed(doubt, 10)
    assert isinstance(found, tuple)
    assert (found[DATASHEET], sum(found)) == (11, 18)
    assert delayed(doubt, 0) is doubt
    assert delayed(None, 10) is None


# ---- random clusters ----------------------------------------------------------------------------

ORDERS: dict[str, dict[str, Any]] = {
    "priority": {},
    "round-robin": {"quantum_tokens": 3},
    "mlfq": {"quantum_steps": 2, "promote_after_s": 1.0},
    "srpt": {},
    "fcfs": {},
}


@dataclass
class Swapping:
    """A random case whose scheduler swaps."""

    case: Any
    space: OffloadLimits
    order: Any

    def run(self, *, leap: bool = True) -> Outcome:
        return run(self.case, self.space, leap=leap, order=self.order)


def swapping(lab: Any, rng: Random, *, by_block: bool | None = None) -> Swapping:
    """A small cluster under pressure of KV with swap space, mostly too small."""
    case = lab.random_case(rng, by_block=by_block)
    case.decoders, longest = 0, case.limits.max_model_len
    least = -(-longest // case.limits.block_size) + case.limits.num_spec_tokens
    blocks = least + rng.choice((0, 1, least // 2))
    case.limits = replace(case.limits, kv_blocks=blocks)
    victim = LowestPriority if case.priority else LastAdmitted
    kind, order = rng.choice(("v0", "v1", "preemptive")), None
    if kind == "v0":
        case.limits = replace(
            case.limits, num_spec_tokens=0, lookahead_tokens=0, async_scheduling=False
        )
        cut = rng.random() < 0.5
        make = partial(PrefillFirst, chunked_prefill=cut, watermark=rng.choice((0.0, 0.1)))
    elif kind == "v1":
        make = partial(VllmV1, **case.scheduler)
    else:
        make = partial(Preemptive, **case.scheduler, most_preemptions=rng.choice((1, 3, 8)))
        name = rng.choice(list(ORDERS))
        if name != "fcfs":
            order = partial(FAMILIES["order"].get(name), **ORDERS[name])
    if rng.random() < 0.15 and by_block is None and kind != "v0":
        case.limits = replace(case.limits, prefix_index="radix")
        case.eviction = Lru
    if rng.random() < 0.15 and case.replicas == 1:
        case.ranks = 2
    case.make_scheduler = lambda: make(preemption="swap", victim=victim())
    space = OffloadLimits(
        rng.choice((1, 5, 30, 2000)),
        rng.choice((0, 10**9, 10**11)),
        rng.choice((100, 10**4, 10**7)),
    )
    return Swapping(case, space, order)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    found = swapping(lab, rng)
    assert lab.differing(found.run(leap=True), found.run(leap=False)) == []


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_runs_of_blocks_change_no_byte(lab: Any, rng: Random) -> None:
    found = swapping(lab, rng, by_block=False)
    by_run = found.run()
    found.case.eviction = lab.LruByBlock
    assert lab.differing(by_run, found.run()) == []


def test_the_cases_reach_what_they_should(lab: Any) -> None:
    outs = refused = leapt = early = 0
    for seed in range(120):
        out = swapping(lab, Random(seed)).run()
        outs += out.totals["swapped_out"]
        refused += out.totals["swap_refused"]
        early += out.totals["swapped_out"] - out.totals["swapped_in"]
        leapt += out.effort.leapt_steps
    assert outs > 80
    assert refused > 50
    assert leapt > 500
    assert early > 0  # some end in host memory: their last token was under way


@contextmanager
def watched(replicas: set[Replica]) -> Iterator[None]:
    """Verify the books after every plan and every finished step of the runs inside."""
    schedule, finish = Replica.schedule, Replica.finish

    def books(replica: Replica) -> None:
        replicas.add(replica)
        space, size = replica.swap, replica.limits.block_size
        assert space is not None
        assert space.check() + space.free == space.total
        lines = [*replica.waiting, *replica.holding, *replica.swapped]
        assert len(set(lines)) == len(lines) == replica.waiting_count
        assert not set(lines) & replica.running.keys()
        assert space.held.keys() == set(replica.swapped)
        for seq in replica.swapped:
            assert seq.status is Status.SWAPPED
            wanted = -(-seq.computed // size)
            assert len(space.held[seq]) >= wanted > 0
            assert len(space.held[seq]) == wanted or replica.limits.num_spec_tokens
            assert (seq.blocks, seq.table, seq.node) == (0, [], None)

    def watched_schedule(replica: Replica, now: int) -> StepPlan:
        plan = schedule(replica, now)
        books(replica)
        ins = {move.seq for move in plan.swaps if not move.out}
        assert ins <= {chunk.seq for chunk in plan.chunks}
        assert bool(plan.copying_ps) <= bool(plan.swaps)
        return plan

    def watched_finish(replica: Replica, plan: StepPlan, now: int, steps: int = 1) -> None:
        finish(replica, plan, now, steps)
        books(replica)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "schedule", watched_schedule)
        patch.setattr(Replica, "finish", watched_finish)
        yield


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_nobody_and_nothing_is_lost(lab: Any, rng: Random) -> None:
    found = swapping(lab, rng)
    replicas: set[Replica] = set()
    with watched(replicas):
        out = found.run(leap=False)
    rows, totals = out.requests, out.totals
    finished = rows["status"] == "finished"
    assert all(rows["reason"][~finished])
    prompt, answer = rows["prompt_tokens"], rows["output_tokens"]
    assert (answer[finished] >= 1).all()
    assert (prompt + answer)[finished].max(initial=0) <= found.case.limits.max_model_len
    assert out.itl.samples == (answer[finished] - 1).sum()
    assert rows["swapped_bytes"].sum() == totals["swap_out_bytes"] + totals["swap_in_bytes"]
    block = found.case.limits.block_size * found.case.kv_bytes_per_token
    assert not (rows["swapped_bytes"] % block).any()
    if not totals["swap_refused"]:
        assert not rows["recomputed_tokens"].any()
    if not found.case.limits.async_scheduling:
        assert totals["swapped_in"] == totals["swapped_out"]
        assert totals["swap_in_bytes"] == totals["swap_out_bytes"]
    for replica in replicas:
        assert replica.swap is not None
        assert replica.swap.free == replica.swap.total
        assert replica.pool.free == replica.pool.total


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_an_unused_swap_space_changes_nothing(lab: Any, rng: Random) -> None:
    """Where nobody gives way, the same records and as many events as without swapping."""
    found = swapping(lab, rng)
    found.case.limits = replace(found.case.limits, kv_blocks=100_000)
    found.order = None
    with_space = found.run()
    make = found.case.make_scheduler
    found.case.make_scheduler = lambda: replaced(make())
    without = run(found.case, None)
    if with_space.totals["preemptions"]:  # an order that preempts needs no shortage
        return
    for name in [name for name in with_space.totals if "swap" in name]:
        assert not with_space.totals.pop(name)
    assert lab.differing(with_space, without) == []
    assert with_space.effort.events == without.effort.events


def replaced(scheduler: Any) -> Any:
    scheduler.preemption = "recompute"
    return scheduler


# ---- what goes wrong ----------------------------------------------------------------------------


def test_without_swap_space_a_policy_may_not_swap(lab: Any) -> None:
    with pytest.raises(IllegalPlanError, match="cannot be swapped: this replica has no swap space"):
        run(two_requests(lab), None)


def test_a_policy_that_forgets_the_swapped_makes_no_progress(lab: Any) -> None:
    class Forgets(PrefillFirst):
        def _swap_in(self, view: Any, step: Any) -> None:
            pass

    case = two_requests(lab)
    case.make_scheduler = partial(Forgets, preemption="swap")
    with pytest.raises(NoProgressError, match="1 requests waiting and 0 running"):
        run(case, OffloadLimits(50, 0, S))


def test_no_other_way_to_preempt() -> None:
    for policy in (PrefillFirst, VllmV1, Preemptive):
        with pytest.raises(ValueError, match='one of recompute, swap, found "swop"'):
            policy(preemption="swop")


def test_whoever_is_aborted_in_host_memory_leaves_it(lab: Any) -> None:
    limits = EngineLimits(8, 4, prefix_caching=False, async_scheduling=False)
    space = SwapSpace(4, 4, 20, 0, S)
    host = Replica(limits, make_pool(limits, Lru()), VllmV1(), FifoQueue, swap=space)
    request = lab.request(0, 9)
    chain = Chains().chain(request.prompt, model="", lora="", salt="", items=())
    chain.append(request.output_content, 0, 0)
    seq = Sequence(request, 4, chain, 32)
    host.submit(seq)
    host.finish(host.schedule(0), 10)
    host.preempt(seq, swap=True)
    assert (space.check(), list(host.swapped), host.has_requests) == (3, [seq], True)
    host.abort(seq)
    assert (space.check(), space.free, host.waiting_count) == (0, 4, 0)


def test_a_slot_that_is_lost_is_noticed() -> None:
    space = SwapSpace(4, 4, 20, 0, S)
    space._fresh = 2
    with pytest.raises(InfersimError, match="0 slots of swap space held and 2 free do not make 4"):
        space.check()


def test_the_line_has_both_in_the_order_of_the_policy(lab: Any) -> None:
    """With round-robin the swapped and the waiting take turns, by what they have had."""
    segments = [Call((Segment(i, 0, 4, ""),), 9, 50 + i) for i in range(4)]
    limits = EngineLimits(
        6, 4, max_model_len=16, max_num_batched_tokens=64, max_num_seqs=2, prefix_caching=False
    )
    case = lab.Case(limits, [(0, call) for call in segments], cost=LinearCost(1000))
    case.make_scheduler = partial(Preemptive, preemption="swap", most_preemptions=100)
    order = partial(FAMILIES["order"].get("round-robin"), quantum_tokens=3)
    out = run(case, OffloadLimits(100, 0, S), order=order)
    rows = out.requests
    assert rows["preemptions"].min() > 0
    assert not rows["recomputed_tokens"].any()
    first = rows["first_token_ps"].tolist()
    assert first == sorted(first)
    assert max(first) < min(rows["finish_ps"])  # everyone has begun before anyone ends
