"""SGLang's loop in the simulator: leaps, books, order, retraction; both indexes, any eviction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InfersimError, InputError
from infersim.policies.eviction.lru import Lru
from infersim.policies.registry import eviction
from infersim.policies.scheduling.sglang.order import NAMES, LineOrder, Waiting, reserved_chunk
from infersim.policies.scheduling.sglang.ratio import NewTokenRatio
from infersim.policies.scheduling.sglang.scheduler import Sglang
from infersim.policies.types import Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.build import make_pool
from infersim.sim.state.kv.radix_pool import RadixPool
from infersim.sim.state.queue import FifoQueue
from infersim.sim.state.replica import Replica
from infersim.sim.state.sequence import Sequence
from infersim.sim.state.session import Call

CASES = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

EVICTIONS: dict[str, Callable[[], Any]] = {
    name: eviction.get(name)
    for name in ("lru", "lfu", "fifo", "mru", "filo", "slru", "priority", "random", "gdsf")
}
EVICTIONS["length-aware"] = eviction.get("length-aware")
EVICTIONS["tlru"] = lambda: eviction.get("tlru")(threshold=6, next_prompt_estimate=2)
EVICTIONS["session-ttl"] = lambda: eviction.get("session-ttl")(factor=1.0, min_s=0.0, max_s=9.0)


def sglang_case(lab: Any, rng: Random) -> Any:
    """A random case of the engine's tests, under SGLang's scheduler with KV to spare or not."""
    case = lab.random_case(rng)
    case.decoders, case.priority = 0, False
    limits = case.limits
    size = limits.block_size
    least = -(-(limits.max_model_len + 2 * size + 1) // size)
    index = rng.choice(("radix", "radix", "radix", "hash-chain"))
    case.limits = replace(
        limits,
        prefix_index=index,
        num_spec_tokens=0,
        lookahead_tokens=0,
        max_num_batched_tokens=1 << 30,
        kv_blocks=least + rng.choice((0, 1, 3, 8, 40)),
    )
    names = [name for name in NAMES if index == "radix" or name != "dfs-weight"]
    given = {
        "schedule_policy": rng.choice(names),
        "chunked_prefill_size": rng.choice((None, size, 4 * size, 8 * size, 64 * size)),
        "max_prefill_tokens": rng.choice((8, 64, 300)),
        "schedule_conservativeness": rng.choice((0.02, 0.3, 1.0)),
        "enable_mixed_chunk": rng.random() < 0.3,
        "enable_priority_scheduling": rng.random() < 0.3,
        "ignore_eos": rng.random() < 0.2,
        "prefill_max_requests": rng.choice((None, None, 1, 2)),
    }
    case.make_scheduler = lambda: Sglang(**given)
    case.eviction = EVICTIONS[rng.choice(list(EVICTIONS))]
    return case


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    case = sglang_case(lab, rng)
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


@settings(CASES, max_examples=25)
@given(rng=st.randoms(use_true_random=False))
def test_vllms_scheduler_leaps_on_a_radix_tree_too(lab: Any, rng: Random) -> None:
    case = lab.random_case(rng)
    case.decoders = 0
    case.limits = replace(case.limits, prefix_index="radix")
    case.eviction = EVICTIONS[rng.choice(list(EVICTIONS))]
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


def crowded(lab: Any, *, page: int, kv: int, mixed: bool = False, **given: Any) -> Any:
    """Long answers that get in one after another, as next to nothing is set aside for them."""
    limits = EngineLimits(
        kv, page, max_model_len=60, max_num_batched_tokens=1 << 30, prefix_index="radix", **given
    )
    calls = [Call((Segment(n % 3, 0, 6 + n),), 30 + n, 50 + n) for n in range(8)]
    case = lab.Case(limits, [(n * 2500, call) for n, call in enumerate(calls)])
    case.cost = LinearCost(1000)
    case.make_scheduler = lambda: Sglang(
        schedule_conservativeness=1e-6, enable_mixed_chunk=mixed, chunked_prefill_size=16
    )
    return case


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("page", "kv"), [(1, 110), (4, 30), (16, 7)])
def test_retraction_loses_nothing(lab: Any, page: int, kv: int, overlap: bool, mixed: bool) -> None:
    case = crowded(lab, page=page, kv=kv, mixed=mixed, async_scheduling=overlap)
    outcome = case.run()
    assert outcome.totals["preemptions"] > 0 or mixed
    assert outcome.requests["output_tokens"].tolist() == [30 + n for n in range(8)]
    assert lab.differing(outcome, case.run(leap=False)) == []


# ---- the parts of the loop -----------------------------------------------------------------------


def replica(lab: Any, *, kv: int = 400, page: int = 1, **given: Any) -> Replica:
    limits = EngineLimits(
        kv,
        page,
        max_model_len=120,
        max_num_batched_tokens=1 << 30,
        async_scheduling=False,
        prefix_index="radix",
        max_num_seqs=given.pop("max_num_seqs", 16),
    )
    made = Replica(limits, make_pool(limits, Lru()), Sglang(**given), FifoQueue)
    made.log_members = True
    return made


def submit(host: Replica, chains: Chains, lab: Any, number: int, prompt: int, answer: int) -> Any:
    asked = lab.request(number, prompt, max_tokens=answer)
    chain = chains.chain(asked.prompt)
    chain.append(asked.output_content, 0, 0)
    seq = Sequence(asked, answer, chain, 120)
    host.submit(seq)
    return seq


def steps(host: Replica, most: int = 400) -> list[tuple[list[tuple[int, int]], int]]:
    """([(request, tokens of its chunk)], requests that decode in the group), step by step."""
    out = []
    for now in range(most):
        plan = host.schedule(now)
        if not plan.tokens:
            break
        out.append(([(c.seq.id, c.tokens) for c in plan.chunks], plan.group))
        host.finish(plan, now + 1)
    assert not host.has_requests
    return out


def test_a_step_is_a_prefill_or_else_a_decode(lab: Any) -> None:
    host, chains = replica(lab, chunked_prefill_size=16), Chains()
    submit(host, chains, lab, 0, 8, 4)
    log = [(plan_of(host), None)]
    submit(host, chains, lab, 1, 40, 2)
    found = log[0][0], *[row for row, _ in steps(host)[:4]]
    assert found[0] == [(0, 8)]
    assert found[1:4] == ([(1, 16)], [(1, 16)], [(1, 8)])  # nobody decodes meanwhile


def plan_of(host: Replica) -> list[tuple[int, int]]:
    plan = host.schedule(0)
    host.finish(plan, 1)
    return [(chunk.seq.id, chunk.tokens) for chunk in plan.chunks]


def test_a_mixed_step_carries_decodes_within_the_chunk(lab: Any) -> None:
    host, chains = replica(lab, chunked_prefill_size=16, enable_mixed_chunk=True), Chains()
    submit(host, chains, lab, 0, 8, 9)
    assert plan_of(host) == [(0, 8)]
    submit(host, chains, lab, 1, 40, 2)
    rows = steps(host)
    assert [dict(row).get(1) for row, _ in rows[:3]] == [15, 15, 10]
    assert all(group or 0 in dict(row) for row, group in rows[:3])


def test_prompts_enter_the_tree_when_they_are_computed(lab: Any) -> None:
    host, chains = replica(lab, chunked_prefill_size=16), Chains()
    first = submit(host, chains, lab, 0, 40, 3)
    pool = host.pool
    assert isinstance(pool, RadixPool)
    held = []
    for now in range(4):
        plan = host.schedule(now)
        held.append(pool.index.protected)
        host.finish(plan, now + 1)
        pool.check()
    assert held == [0, 16, 32, 40]
    steps(host)
    assert (pool.index.evictable, pool.index.protected) == (first.last_token - 1, 0)
    path, node = [], pool.index.root
    while node.kids:
        (node,) = node.kids.values()
        path.append(node.blocks)
    assert path == [16, 16, 8, 2]  # chunk by chunk, and cut where the answer begins


def test_equal_prompts_are_stored_once(lab: Any) -> None:
    host, chains = replica(lab), Chains()
    for number in range(2):
        asked = lab.request(number, segments=(Segment(7, 0, 30),), max_tokens=1)
        seq = Sequence(asked, 1, chains.chain(asked.prompt), 120)
        host.submit(seq)
    plan = host.schedule(0)
    assert [chunk.tokens for chunk in plan.chunks] == [30, 30]
    assert host.pool.free == 340
    host.finish(plan, 1)
    assert host.pool.cached_idle == 30
    assert host.pool.free == 400


def test_a_full_batch_stays_shut_until_someone_leaves(lab: Any) -> None:
    host, chains = replica(lab, kv=100), Chains()
    submit(host, chains, lab, 0, 20, 60)
    submit(host, chains, lab, 1, 20, 60)
    rows = steps(host)
    assert rows[0][0] == [(0, 20)]
    assert [row for row, _ in rows].index([(1, 20)]) == 60


def test_the_shortest_answer_gives_way_the_longest_prompt_among_equals(lab: Any) -> None:
    host, chains = replica(lab, kv=101, schedule_conservativeness=1e-6), Chains()
    gone: list[int] = []
    for now in range(300):
        if now in (0, 2, 3):
            number = (0, None, 1, 2)[now]
            submit(host, chains, lab, number, (20, 30, 25)[number], 40)
        plan = host.schedule(now)
        if not plan.tokens:
            break
        gone += [seq.id for seq in plan.preempted]
        host.finish(plan, now + 1)
    assert gone[0] == 1
    assert not host.has_requests


def test_lines_are_ordered_by_what_is_cached(lab: Any) -> None:
    for policy, first in (("fcfs", 2), ("lpm", 3), ("shortest-prefill-first", 4), ("lof", 5)):
        host, chains = replica(lab, schedule_policy=policy, prefill_max_requests=1), Chains()
        host.submit(Sequence(lab.request(0, 50), 1, chains.chain(lab.request(0, 50).prompt), 120))
        host.finish(host.schedule(0), 1)
        submit(host, chains, lab, 2, 20, 5)
        prompt = (*lab.request(0, 50).prompt, Segment(3, 0, 15))
        asked = lab.request(3, segments=prompt, max_tokens=9)
        host.submit(Sequence(asked, 3, chains.chain(asked.prompt), 120))
        submit(host, chains, lab, 4, 10, 5)
        submit(host, chains, lab, 5, 30, 90)
        plan = host.schedule(2)
        assert [chunk.seq.id for chunk in plan.chunks] == [first], policy


def test_hrrn_and_routing_key_from_reading() -> None:
    def waiting(name: int, prompt: int, arrived: int, key: str = "") -> Waiting:
        return Waiting(name, name, prompt, prompt, 9, 0, 0, key, arrived)

    class Empty:
        def lookup(self, handle: Any) -> int:
            return 0

        def scratch(self) -> Any:
            return self

        def agree(self, handle: Any) -> int:
            return 0

        def add(self, handle: Any) -> None: ...

        def by_weight(self, handles: Any) -> list[int]:
            return []

    line = [waiting(0, 100, 0), waiting(1, 10, 50), waiting(2, 10, 90)]
    LineOrder("hrrn").sort(line, Empty(), computed_tokens=100)
    assert [one.name for one in line] == [1, 0, 2]  # 50/10, 100/100, 10/10: ties by name
    line = [waiting(0, 9, 0), waiting(1, 9, 0, "b"), waiting(2, 9, 0, "a"), waiting(3, 9, 0, "b")]
    LineOrder("routing-key").sort(line, Empty(), running_keys=["b", "b", "a"])
    assert [one.name for one in line] == [1, 3, 2, 0]
    many = [waiting(n, 200 - n, 0) for n in range(129)]
    LineOrder("hrrn").sort(many, Empty(), computed_tokens=10)
    assert [one.name for one in many] == list(range(129))  # too long a line to look up


def test_short_prompts_find_room_beside_a_long_one() -> None:
    line = [Waiting(n, n, tokens, tokens, 1, 0, 0) for n, tokens in enumerate((10, 20, 200))]
    assert reserved_chunk(line, 150, 64, 1) == 34
    assert reserved_chunk(line, 150, 64, 16) == 16
    assert reserved_chunk(line[2:], 150, 64, 1) is None
    assert reserved_chunk(line, 150, 1, 1) is None


def test_the_ratio_falls_with_decodes_and_jumps_with_retraction() -> None:
    ratio = NewTokenRatio(1.0)
    assert ratio.after(0) == 0.7
    assert ratio.after(300) == pytest.approx(0.7 - (0.7 - 0.098) / 2)
    assert ratio.after(600) == pytest.approx(0.098)
    assert ratio.after(10**9) == 0.7 * 0.14
    ratio.retracted(answered=50, allowed=399, requests=5, steps=10**9)
    assert ratio.after(10**9) == (50 + 100) / 400
    ratio.idle(10**9)
    assert ratio.after(10**9) == 0.7
    one, many = NewTokenRatio(0.9), NewTokenRatio(0.9)
    for step in range(100):
        one.after(step)
    assert one.after(100) == many.after(100)


@pytest.mark.parametrize(
    "given",
    [
        {"schedule_policy": "longest"},
        {"chunked_prefill_size": 0},
        {"max_prefill_tokens": 0},
        {"schedule_conservativeness": 0.0},
        {"prefill_max_requests": 0},
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, InfersimError), match=next(iter(given))):
        Sglang(**given)


def test_what_needs_another_index_says_so(lab: Any) -> None:
    limits = EngineLimits(9, prefix_index="radix")
    with pytest.raises(InputError, match="evicts whole leaves"):
        make_pool(limits, eviction.get("sieve")())
    case = crowded(lab, page=1, kv=110)
    case.limits = replace(case.limits, prefix_index="hash-chain")
    case.make_scheduler = lambda: Sglang(schedule_policy="dfs-weight")
    with pytest.raises(InputError, match="hash chain"):
        case.run()


# ---- planted faults ------------------------------------------------------------------------------


def no_room_is_made_in_a_leap(patch: pytest.MonkeyPatch) -> None:
    real = Replica.catch_up

    def catch_up(self: Replica, step: int) -> None:
        room, self.decode_room = self.decode_room, 0
        real(self, step)
        self.decode_room = room

    patch.setattr(Replica, "catch_up", catch_up)


def a_line_that_moves_is_leapt_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sglang, "repeats", lambda self, view: True)


def leaves_are_counted_ahead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RadixPool, "uneven", False, raising=False)
    real = RadixPool.__init__

    def init(self: RadixPool, *args: Any, **given: Any) -> None:
        real(self, *args, **given)
        self.uneven = False

    patch.setattr(RadixPool, "__init__", init)


FAULTS = [
    (no_room_is_made_in_a_leap, 0),
    (a_line_that_moves_is_leapt_over, 150),
    (leaves_are_counted_ahead, 0),
]


@pytest.mark.parametrize(("plant", "seed"), FAULTS, ids=lambda x: getattr(x, "__name__", "")[:40])
def test_a_planted_fault_changes_bytes(
    lab: Any,
    plant: Callable[[pytest.MonkeyPatch], None],
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    for number in range(seed, seed + 100):
        case = sglang_case(lab, Random(number))
        try:
            if lab.differing(case.run(leap=True), case.run(leap=False)):
                return
        except InfersimError:
            return
    pytest.fail("nothing noticed")


# ---- blocks by their ids, as a device needs them -------------------------------------------------


@settings(CASES, max_examples=40)
@given(rng=st.randoms(use_true_random=False))
def test_ids_of_blocks_change_no_byte(lab: Any, rng: Random) -> None:
    case = sglang_case(lab, rng)
    case.limits = replace(case.limits, prefix_index="radix")
    counted = case.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "infersim.sim.engine.cluster.make_pool",
            lambda limits, policy, runs=True: make_pool(limits, policy, runs=False),
        )
        assert lab.differing(counted, case.run(leap=False)) == []


def test_no_block_has_two_owners(lab: Any) -> None:
    limits = EngineLimits(40, 4, max_model_len=120, prefix_index="radix", max_num_seqs=8)
    limits = replace(limits, max_num_batched_tokens=1 << 30, async_scheduling=False)
    pool = make_pool(limits, Lru(), runs=False)
    host = Replica(limits, pool, Sglang(chunked_prefill_size=16), FifoQueue)
    chains = Chains()
    for number in range(6):
        prompt = (Segment(number % 2, 0, 18), Segment(10 + number, 0, 5))
        asked = lab.request(number, segments=prompt, max_tokens=12)
        chain = chains.chain(asked.prompt)
        chain.append(asked.output_content, 0, 0)
        host.submit(Sequence(asked, 12, chain, 120))
    for now in range(200):
        plan = host.schedule(now)
        if not plan.tokens:
            break
        own: list[int] = []
        for seq in host.running:
            assert len(seq.table) == seq.blocks
            own += seq.table[seq.committed :]
        cached = [slot for node in nodes(pool) for slot in node.slots]
        assert len({*own, *cached}) == len(own) + len(cached)
        for one in host.running:
            for other in host.running:
                agree = one.chain.agrees(other.chain, 120)
                shared = min(one.committed, other.committed, agree // 4)
                assert one.table[:shared] == other.table[:shared]
        host.finish(plan, now + 1)
    assert not host.has_requests


def nodes(pool: Any) -> list[Any]:
    found, stack = [], [pool.index.root]
    while stack:
        node = stack.pop()
        stack += node.kids.values()
        found.append(node)
    return found
