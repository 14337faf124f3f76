"""What holds in every run, whatever the policies do; checked at every step with leaps off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError, NoProgressError, UnknownNameError
from infersim.policies.eviction.base import Eviction, Key
from infersim.policies.routing.base import Router
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import CachedBlock, ClusterView, Promise, Request
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.cluster import Cluster
from infersim.sim.engine.config import Progress
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, RunLimits
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.plan import StepPlan
from infersim.sim.state.replica import Replica
from infersim.sim.state.sequence import Status
from infersim.sim.state.session import Arrival, Call, Use

CASES = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Watch:
    """Looks at every replica after every plan and every finished step."""

    def __init__(self) -> None:
        self.clocks: dict[Replica, int] = {}
        self.tokens = self.steps = 0
        self.calls: list[Call] = []

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Wrap the replicas of all runs inside."""
        schedule, finish, submit = Replica.schedule, Replica.finish, Cluster.submit

        def watched_schedule(replica: Replica, now: int) -> StepPlan:
            plan = schedule(replica, now)
            self.planned(replica, plan, now)
            return plan

        def watched_finish(replica: Replica, plan: StepPlan, now: int, steps: int = 1) -> None:
            finish(replica, plan, now, steps)
            self.tick(replica, now)
            self.steps += steps
            self.books(replica)

        def watched_submit(cluster: Cluster, call: Call, answer: Any) -> None:
            self.calls.append(call)
            submit(cluster, call, answer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Replica, "schedule", watched_schedule)
            patch.setattr(Replica, "finish", watched_finish)
            patch.setattr(Cluster, "submit", watched_submit)
            yield self

    def tick(self, replica: Replica, now: int) -> None:
        """Time never goes back."""
        assert self.clocks.get(replica, 0) <= now
        self.clocks[replica] = now

    def planned(self, replica: Replica, plan: StepPlan, now: int) -> None:
        """A plan is within the engine's limits, and adds up."""
        self.tick(replica, now)
        limits = replica.limits
        assert len(replica.running) <= limits.max_num_seqs
        assert 0 <= plan.tokens <= limits.max_num_batched_tokens
        assert plan.tokens == plan.group + sum(chunk.tokens for chunk in plan.chunks)
        in_step = [chunk.seq for chunk in plan.chunks]
        assert len(set(in_step)) == len(in_step)
        for chunk in plan.chunks:
            assert chunk.tokens > 0
            assert chunk.seq.computed_tokens == chunk.start + chunk.tokens
            assert chunk.seq.status is Status.RUNNING
        assert len(replica.in_flight) <= 1 + limits.async_scheduling
        self.tokens += plan.tokens
        self.books(replica)

    def books(self, replica: Replica) -> None:
        """Everyone is in one place, with blocks for what is computed; blocks add up."""
        lines = [*replica.waiting, *replica.holding]
        assert len(set(lines)) == len(lines)
        assert not set(lines) & replica.running.keys()
        pool, size = replica.pool, replica.limits.block_size
        held = pool.check()
        assert held + pool.free == pool.total
        assert 0 <= pool.cached_idle <= pool.free
        for seq in replica.running:
            grown = -(-seq.computed_tokens // size) if seq.base is not None else seq.blocks
            assert grown * size >= seq.computed_tokens
            assert seq.computed_tokens <= replica.limits.max_model_len
        owners = [*replica.running, *replica.holding, *replica.sending]
        if isinstance(pool, BlockPool):
            tables = [block for seq in owners for block in seq.table]
            fenced = [block for _, seq in replica._fenced for block in seq.table]
            assert held == len({*tables, *fenced})
            if not replica.limits.prefix_caching:
                assert len(tables) + len(fenced) == held


def verify(case: Any, watch: Watch, out: Outcome) -> None:
    """Every call is accounted for, in whole tokens and in order of time."""
    rows: dict[str, list[Any]] = {name: column.tolist() for name, column in out.requests.items()}
    assert rows["request_id"] == list(range(len(watch.calls)))
    longest, size = case.limits.max_model_len, case.limits.block_size
    statuses = Counter(rows["status"])
    assert statuses.total() == statuses["finished"] + statuses["failed"]
    for i, call in enumerate(watch.calls):
        row = {name: rows[name][i] for name in rows}
        prompt = sum(segment.tokens for segment in call.prompt)
        assert row["prompt_tokens"] == prompt
        if row["status"] == "failed":
            assert row["reason"]
            assert prompt >= longest
            assert row["output_tokens"] == 0
            continue
        assert not row["reason"]
        cap = call.max_tokens if call.max_tokens is not None else longest
        assert row["output_tokens"] == min(call.output_tokens, cap, longest - prompt)
        times = [row[f"{name}_ps"] for name in ("arrival", "scheduled", "first_token", "finish")]
        assert times == sorted(times)
        misses = [row[f"{reason}_tokens"] for reason in MISSES]
        assert min(misses) >= 0
        assert row["hit_tokens"] + sum(misses) == prompt
        assert row["hit_tokens"] % size == 0
        assert row["hit_tokens"] < prompt
        assert 0 <= row["remote_tokens"] <= prompt
        assert bool(row["recomputed_tokens"]) <= bool(row["preemptions"])
        assert bool(row["first_miss"])
    answered = [n - 1 for n, status in zip(rows["output_tokens"], rows["status"], strict=True)]
    assert out.itl.samples == sum(n for n in answered if n > 0)
    totals = out.totals
    assert totals["preemptions"] == sum(rows["preemptions"])
    assert totals["link_bytes"] == sum(rows["transfer_bytes"])
    assert totals["link_bytes"] % (size * case.kv_bytes_per_token) == 0
    assert totals["steps"] == watch.steps
    served = [
        at
        for at, status in zip(rows["finish_ps"], rows["status"], strict=True)
        if status != "failed"
    ]
    assert totals["simulated_ps"] >= max(served, default=0)
    plain = not (totals["preemptions"] or case.limits.async_scheduling or case.decoders)
    if plain and not case.limits.num_spec_tokens:
        assert watch.tokens == sum(
            prompt - hit + n
            for prompt, hit, n in zip(
                rows["prompt_tokens"], rows["hit_tokens"], answered, strict=True
            )
            if n >= 0
        )


MISSES = ("never_seen", "evicted", "diverged", "elsewhere", "rounding")


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_invariants(lab: Any, rng: Random) -> None:
    case, watch = lab.random_case(rng), Watch()
    with watch.watching():
        out = case.run(leap=False)
    verify(case, watch, out)


# ---- pathological policies ----


@dataclass
class NewestFirst:
    """The request that came last is served first."""

    promise: ClassVar[Promise] = Promise(repeats=True)

    def key(self, seq: Any, now: int) -> tuple[int, ...]:
        return (-seq.request.arrival_ps, -seq.request.id)


@dataclass
class MostKnown:
    """Order and victim that change with every token."""

    promise: ClassVar[Promise] = Promise(dynamic=True)

    def key(self, seq: Any, now: int) -> tuple[int, ...]:
        return (now - seq.request.arrival_ps) % 7, seq.known_tokens

    def score(self, seq: Any, position: int) -> tuple[int, ...]:
        return (seq.known_tokens - seq.computed_tokens, seq.known_tokens)


@dataclass
class AlwaysFirst(Router):
    """Everything goes to the first replica."""

    def route(self, request: Request, cluster: ClusterView) -> int:
        return cluster.replicas[0].id


@dataclass
class EvictHottest(Eviction):
    """What is used most leaves first."""

    def key(self, block: CachedBlock, request: Request | None, now: int) -> Key:
        return (-block.hits, block.position)


@dataclass
class OneAtATime:
    """Runs one request to its end, then the next; knows nothing of groups or budgets."""

    promise: ClassVar[Promise] = Promise()

    def schedule(self, view: Any, step: Any) -> None:
        for seq in list(view.running):
            tokens = min(step.wanted(seq), step.budget)
            if tokens > 0 and not step.take(seq, tokens):
                step.preempt(seq)
        if not view.running and (seq := step.next_waiting()) is not None:
            found = step.prefix(seq)
            if found is not None and found.asynchronous:
                step.load(seq, whole=True, watermark=0.0)
            elif found is not None:
                left = seq.known_tokens - found.tokens
                step.admit(seq, min(left, step.budget), whole=True, watermark=0.0)

    def repeats(self, view: Any) -> bool:
        return False


@dataclass
class Thrashing(VllmV1):
    """vLLM's scheduler, but now and then someone loses everything."""

    _calls: int = field(default=0, init=False)

    def schedule(self, view: Any, step: Any) -> None:
        self._calls += 1
        if self._calls % 11 == 0 and len(view.running) > 1:
            step.preempt(list(view.running)[self._calls % len(view.running)])
        VllmV1.schedule(self, view, step)

    def repeats(self, view: Any) -> bool:
        return False


def odd(config: ClusterConfig, name: str) -> ClusterConfig:
    """The cluster with one pathological policy."""
    changes: dict[str, dict[str, Any]] = {
        "newest first": {"make_order": NewestFirst},
        "order that moves": {"make_order": MostKnown},
        "victim that moves": {"make_scheduler": lambda: VllmV1(victim=MostKnown())},
        "evict hottest": {"make_eviction": EvictHottest},
        "one at a time": {"make_scheduler": OneAtATime},
        "thrashing": {"make_scheduler": Thrashing},
    }
    if name == "always first":
        return replace(config, routing=AlwaysFirst())
    pools = tuple(replace(pool, **changes[name]) for pool in config.pools)
    return replace(config, pools=pools)


@pytest.mark.parametrize(
    "name",
    [
        "newest first",
        "order that moves",
        "victim that moves",
        "evict hottest",
        "one at a time",
        "thrashing",
        "always first",
    ],
)
def test_invariants_hold_under_pathological_policies(lab: Any, name: str) -> None:
    for seed in range(20):
        case, watch = lab.random_case(Random(seed)), Watch()
        config = odd(case.config(), name)
        with watch.watching():
            steps = simulate(config, case.clients(), leap=False, check=True)
        verify(case, watch, steps)
        leaps = simulate(odd(case.config(), name), case.clients(), leap=True)
        assert lab.differing(leaps, steps) == []


# ---- standing still ----


@dataclass
class Idler:
    """Plans nothing, ever."""

    promise: ClassVar[Promise] = Promise()
    moves: int = 0

    def schedule(self, view: Any, step: Any) -> None:
        seq = step.next_waiting()
        if self.moves and seq is not None:
            step.prefix(seq)
            step.admit(seq, 1, whole=False, watermark=0.0)
            step.preempt(seq)

    def repeats(self, view: Any) -> bool:
        return True


@pytest.mark.parametrize("moves", [0, 1], ids=["nothing", "admits and preempts"])
@pytest.mark.parametrize("signal_age_ps", [0, 10**11])
def test_a_scheduler_that_gets_nowhere_is_an_error(
    lab: Any, moves: int, signal_age_ps: int
) -> None:
    case = lab.Case(EngineLimits(10), [(0, lab.call(0, 4, 4)), (5, lab.call(1, 4, 4))])
    case.signal_age_ps = signal_age_ps
    config = odd(case.config(), "always first")
    pool = replace(config.pools[0], make_scheduler=lambda: Idler(moves))
    with pytest.raises(NoProgressError, match="has 1 requests waiting and 0 running"):
        simulate(replace(config, pools=(pool,)), case.clients())


def test_kv_that_never_suffices_is_an_error(lab: Any) -> None:
    limits = EngineLimits(kv_blocks=2, block_size=4, max_model_len=100)
    case = lab.Case(limits, [(0, lab.call(0, 20, 5))])
    with pytest.raises(NoProgressError, match="1 requests waiting and 0 running"):
        case.run()


def test_a_transfer_that_never_comes_is_an_error(lab: Any, monkeypatch: Any) -> None:
    """Samples and reports alone do not keep a run alive."""
    monkeypatch.setattr("infersim.sim.state.split.Splitter._arrived", lambda self, seq: None)
    case = lab.Case(EngineLimits(50), [(0, lab.call(0, 20, 5))], decoders=1)
    case.signal_age_ps = 10**9
    with pytest.raises(NoProgressError, match="stands still with 1 requests unanswered"):
        case.run()


# ---- what is refused, cut or counted ----


def test_a_prompt_over_the_context_limit_fails_and_the_session_goes_on(lab: Any) -> None:
    limits = EngineLimits(kv_blocks=10, block_size=4, max_model_len=20)
    heard: list[Any] = []

    def session() -> Any:
        heard.append((yield lab.call(0, 20, 5)))
        heard.append((yield lab.call(1, 19, 5)))
        heard.append((yield lab.call(2, 5, 9, max_tokens=3)))

    case = lab.Case(limits, [(7, lab.Script(()))])
    clients = lab.Clients([Arrival(7, session)])
    out = simulate(case.config(), clients)
    assert out.requests["status"].tolist() == ["failed", "finished", "finished"]
    assert out.requests["reason"].tolist() == ["prompt over the context limit of 20 tokens", "", ""]
    assert out.requests["finish_ps"].tolist()[0] == 7
    assert [tuple(result) for result in heard] == [
        (False, "prompt over the context limit of 20 tokens", 0),
        (True, "", 1),
        (True, "", 3),
    ]


def test_a_call_needs_a_prompt_and_an_answer(lab: Any) -> None:
    for prompt, output in ((0, 1), (1, 0)):
        case = lab.Case(EngineLimits(10), [(0, lab.call(0, prompt, output))])
        with pytest.raises(InputError, match=f"found {prompt} and {output}"):
            case.run()


def test_effects_that_are_none_and_resources_that_are_not(lab: Any) -> None:
    def nonsense() -> Any:
        yield "sleep"

    def elsewhere() -> Any:
        yield Use("gpu", 5)

    case = lab.Case(EngineLimits(10), [])
    for session, error, says in (
        (nonsense, InputError, "'sleep', which is no effect"),
        (elsewhere, UnknownNameError, 'unknown resource "gpu"'),
    ):
        with pytest.raises(error, match=says):
            simulate(case.config(), lab.Clients([Arrival(0, session)], {"cpu": 1}))


def test_limits_close_the_door_and_let_everyone_inside_finish(lab: Any) -> None:
    calls = [(1000 * i, lab.call(i, 4, 20)) for i in range(10)]
    case = lab.Case(EngineLimits(100), calls)
    assert len(case.run(requests=3).requests["status"]) == 3
    limits = RunLimits(duration_ps=4000)
    out = simulate(case.config(), case.clients(), limits=limits)
    assert out.requests["status"].tolist() == ["finished"] * 4
    assert out.requests["arrival_ps"].max() == 3000
    assert out.totals["simulated_ps"] > 4000


def test_progress_is_told(lab: Any) -> None:
    told: list[Progress] = []
    case = lab.Case(EngineLimits(100), [(i, lab.call(i, 4, 2)) for i in range(200)])
    clients = case.clients()
    clients.expected_requests = 200
    simulate(
        case.config(),
        clients,
        limits=RunLimits(requests=150),
        progress=lambda p: told.append(replace(p)),
    )
    assert [(p.ended, p.expected) for p in told] == [(64, 150), (128, 150)]
    assert 0 < told[0].now_ps <= told[1].now_ps
    assert told[0].arrived >= 64


def test_the_sampler_halves_its_rate(lab: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("infersim.sim.state.journal.MOST_SAMPLES", 8)
    case = lab.Case(EngineLimits(100), [(0, lab.call(0, 4, 100))], cost=LinearCost(10**11))
    for leap in (True, False):
        times = case.run(leap=leap).series["t_ps"].tolist()
        assert 4 <= len(times) < 8
        assert len({later - earlier for earlier, later in pairwise(times)}) == 1


def test_sampling_stops_while_nothing_happens(lab: Any) -> None:
    case = lab.Case(EngineLimits(100), [(0, lab.call(0, 4, 2)), (10**15, lab.call(1, 4, 2))])
    times = case.run().series["t_ps"].tolist()
    assert len(times) == 2


def test_a_router_may_only_choose_candidates(lab: Any) -> None:
    @dataclass
    class Elsewhere(Router):
        def route(self, request: Request, cluster: ClusterView) -> int:
            return 17

    case = lab.Case(EngineLimits(10), [(0, lab.call(0, 4, 4))], replicas=2)
    with pytest.raises(InputError, match=r"chose replica 17; it may choose \[0, 1\]"):
        simulate(replace(case.config(), routing=Elsewhere()), case.clients())


def test_a_split_needs_a_link(lab: Any) -> None:
    case = lab.Case(EngineLimits(10), [(0, lab.call(0, 4, 4))], decoders=1)
    with pytest.raises(InputError, match="needs a link"):
        simulate(replace(case.config(), kv_link=None), case.clients())


@pytest.mark.parametrize("name", ["kv_blocks", "block_size", "max_num_seqs"])
def test_engine_limits_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be at least 1, not 0"):
        EngineLimits(**{"kv_blocks": 5} | {name: 0})
    with pytest.raises(InputError, match="encoder_budget must not be negative, found -1"):
        EngineLimits(5, encoder_budget=-1)
