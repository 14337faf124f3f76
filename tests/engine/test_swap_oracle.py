"""vLLM's first engine with swapping, once more and slowly: a pass over the batch per step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.scheduling.prefill_first import PrefillFirst
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import EngineLimits, OffloadLimits
from infersim.sim.state.replica import Replica
from infersim.sim.state.step import StepBuilder
from infersim.sim.state.swap import SwapSpace

FEW = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
S = 10**12


@dataclass(eq=False)
class Job:
    """One request in the slow engine; times in ps, -1 for never."""

    arrival: int
    prompt: int
    output: int
    known: int = 0
    computed: int = 0
    blocks: int = 0
    slots: int = 0  # of the host
    scheduled: int = -1
    first: int = -1
    last: int = -1
    preemptions: int = 0
    recomputed: int = 0
    moved: int = 0  # blocks copied, either way


@dataclass
class Swapping:
    """`_schedule_default` of vllm 0.6 without a prefix cache: a prefill of whole prompts while
    nobody is swapped, else a decode of the batch, then whoever is swapped comes back if nobody
    gave way. Who gives way is swapped out, or computed again where the host is full."""

    limits: EngineLimits
    space: OffloadLimits
    watermark: float
    cost: LinearCost
    block_bytes: int
    jobs: list[Job]
    waiting: deque[Job] = field(default_factory=deque)
    swapped: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    out_blocks: int = 0  # of the step being planned
    in_blocks: int = 0
    steps: int = 0
    outs: int = 0
    ins: int = 0
    refused: int = 0
    copying: int = 0

    def play(self) -> None:
        """Serve all jobs, which come in order of arrival."""
        self.free, self.host = self.limits.kv_blocks, self.space.blocks
        now, coming = 0, deque(self.jobs)
        while coming or self.waiting or self.running or self.swapped:
            if not (self.waiting or self.running or self.swapped):
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.popleft())
            batch = self.prefill() or self.decode()
            if not batch:
                continue  # all gave way
            for job, _ in batch:
                if job.scheduled < 0:
                    job.scheduled = now
            now += self.duration(batch)
            self.steps += 1
            self.update(batch, now)

    def spare(self) -> int:
        """Blocks that admission leaves free."""
        return int(self.watermark * (self.limits.kv_blocks + 1)) if self.running else 0

    def pages(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def prefill(self) -> list[tuple[Job, int]]:
        batch: list[tuple[Job, int]] = []
        budget = self.limits.max_num_batched_tokens
        while self.waiting and not self.swapped and len(self.running) < self.limits.max_num_seqs:
            job = self.waiting[0]
            if job.known > budget or self.pages(job.known) + self.spare() > self.free:
                break
            budget -= job.known
            self.hold(job, job.known)
            self.running.append(self.waiting.popleft())
            batch.append((job, job.known))
        return batch

    def decode(self) -> list[tuple[Job, int]]:
        batch: list[tuple[Job, int]] = []
        queue, gave_way = list(self.running), False
        while queue:
            job = queue.pop(0)
            while not self.hold(job, job.known):
                loser = self.running.pop()
                self.preempt(loser)
                gave_way = True
                if loser is job:
                    break
                queue.remove(loser)
            else:
                batch.append((job, 1))
        while self.swapped and not gave_way and len(self.running) < self.limits.max_num_seqs:
            job = self.swapped[0]
            if self.pages(job.known) + self.spare() > self.free:
                break
            self.hold(job, job.known)
            self.running.append(self.swapped.popleft())
            self.in_blocks += job.slots
            job.moved += job.slots
            self.host += job.slots
            job.slots = 0
            self.ins += 1
            batch.append((job, 1))
        return batch

    def preempt(self, loser: Job) -> None:
        pages = self.pages(loser.computed)
        self.free += loser.blocks
        loser.blocks = 0
        loser.preemptions += 1
        if pages > self.host:
            self.refused += 1
            loser.recomputed += loser.computed
            loser.computed = 0
            self.waiting.appendleft(loser)
            return
        self.host -= pages
        loser.slots = pages
        loser.moved += pages
        self.out_blocks += pages
        self.outs += 1
        self.swapped.append(loser)

    def hold(self, job: Job, tokens: int) -> bool:
        """Allocate what the job's first *tokens* still need; False when there is not enough."""
        new = self.pages(tokens) - job.blocks
        if new > self.free:
            return False
        self.free -= new
        job.blocks += new
        return True

    def duration(self, batch: list[tuple[Job, int]]) -> int:
        """The step's time, term by term: copies first."""
        total = self.cost.base_ps
        for blocks in (self.out_blocks, self.in_blocks):
            if blocks:
                wire = -(-blocks * self.block_bytes * S // self.space.bytes_per_s)
                total += self.space.latency_ps + wire
                self.copying += self.space.latency_ps + wire
        self.out_blocks = self.in_blocks = 0
        for job, tokens in batch:
            total += self.cost.per_sequence_ps
            total += self.cost.per_context_token_ps * (job.computed + tokens)
            total += self.cost.per_prefill_token_ps * tokens if tokens > 1 else 0
        return total

    def update(self, batch: list[tuple[Job, int]], now: int) -> None:
        """Book the outcome of a step that ended at *now*."""
        for job, _ in batch:
            job.computed = job.known
            job.known += 1
            job.last = now
            if job.first < 0:
                job.first = now
            if job.known == job.prompt + job.output:
                self.free += job.blocks
                self.running.remove(job)


@dataclass
class Workload:
    """A replica without a prefix cache, and (arrival, prompt, output) of its requests."""

    case: Any
    space: OffloadLimits
    watermark: float
    sizes: list[tuple[int, int, int]]

    def slow(self) -> Swapping:
        case = self.case
        jobs = [Job(at, prompt, output, known=prompt) for at, prompt, output in self.sizes]
        bytes_ = case.limits.block_size * case.kv_bytes_per_token
        engine = Swapping(case.limits, self.space, self.watermark, case.cost, bytes_, jobs)
        engine.play()
        assert (engine.free, engine.host) == (case.limits.kv_blocks, self.space.blocks)
        return engine

    def fast(self, *, leap: bool) -> Outcome:
        case = self.case
        case.make_scheduler = lambda: PrefillFirst(watermark=self.watermark, preemption="swap")
        config = case.config()
        config = replace(config, pools=(replace(config.pools[0], swap=self.space),))
        return simulate(config, case.clients(), leap=leap, check=True)

    def disagreement(self, *, leap: bool) -> str:
        """What the simulator says differently from the slow engine; "" when nothing."""
        engine, out = self.slow(), self.fast(leap=leap)
        jobs, totals = engine.jobs, out.totals
        size = self.case.limits.block_size * self.case.kv_bytes_per_token
        columns = {
            "scheduled_ps": [job.scheduled for job in jobs],
            "first_token_ps": [job.first for job in jobs],
            "finish_ps": [job.last for job in jobs],
            "preemptions": [job.preemptions for job in jobs],
            "recomputed_tokens": [job.recomputed for job in jobs],
            "swapped_bytes": [job.moved * size for job in jobs],
        }
        for column, expected in columns.items():
            if out.requests[column].tolist() != expected:
                return column
        found = [totals[name] for name in ("steps", "swapped_out", "swapped_in", "swap_refused")]
        if found != [engine.steps, engine.outs, engine.ins, engine.refused]:
            return "counts"
        if totals["swap_ps"] != engine.copying:
            return "swap_ps"
        return "tokens" if out.itl.samples != sum(output - 1 for *_, output in self.sizes) else ""


def workload(lab: Any, rng: Random) -> Workload:
    size = rng.choice((1, 3, 16))
    longest = rng.choice((10, 30, 120))
    limits = EngineLimits(
        kv_blocks=-(-longest // size) + rng.choice((0, 2, 10, 40)),
        block_size=size,
        max_model_len=longest,
        max_num_batched_tokens=longest + rng.choice((0, 7, 100)),
        max_num_seqs=rng.choice((2, 4, 8, 10)),
        prefix_caching=False,
        async_scheduling=False,
    )
    cost = rng.choice((LinearCost(1000), LinearCost(1000, 20, 30, 1), LinearCost(7, 0, 0, 5)))
    case = lab.Case(limits, [], cost=cost, kv_bytes_per_token=rng.choice((1, 3)))
    space = OffloadLimits(
        rng.choice((3, 20, 200, 1000)), rng.choice((0, 13, 900)), rng.choice((10**10, 7 * 10**11))
    )
    at, sizes = 0, []
    for _ in range(rng.choice((5, 10, 25, 40))):
        at += rng.choice((0, 0, 1, 999, 1000, 1001, 5000))
        prompt = rng.randint(1, longest // rng.choice((2, 3, 6)))
        room = longest - prompt
        sizes.append((at, prompt, rng.choice((1, rng.randint(1, room), room, room))))
    case.arrivals = [(at, lab.call(i, p, o)) for i, (at, p, o) in enumerate(sizes)]
    return Workload(case, space, rng.choice((0.0, 0.01, 0.1)), sizes)


@pytest.mark.parametrize("leap", [False, True], ids=["steps", "leaps"])
@FEW
@given(rng=st.randoms(use_true_random=False))
def test_the_fast_engine_agrees_with_the_slow_one(lab: Any, leap: bool, rng: Random) -> None:
    assert workload(lab, rng).disagreement(leap=leap) == ""


def test_the_workloads_reach_what_they_should(lab: Any) -> None:
    """Swaps, refusals, several at once, leaps: without them agreement means little."""
    outs = refused = leapt = again = 0
    for seed in range(60):
        case = workload(lab, Random(seed))
        out = case.fast(leap=True)
        outs += out.totals["swapped_out"]
        refused += out.totals["swap_refused"]
        leapt += out.effort.leapt_steps
        again += int((out.requests["preemptions"] > 1).sum())
    assert outs > 200
    assert refused > 20
    assert leapt > 500
    assert again > 20


# ---- planted faults ----


def prompts_come_before_the_swapped(patch: pytest.MonkeyPatch) -> None:
    real = PrefillFirst._prefill

    def prefill(self: PrefillFirst, view: Any, step: Any) -> bool:
        class Blind:
            swapped_count = 0

            def __getattr__(self, name: str) -> Any:
                return getattr(view, name)

        return real(self, Blind(), step)

    patch.setattr(PrefillFirst, "_prefill", prefill)


def copies_take_no_time(patch: pytest.MonkeyPatch) -> None:
    real = SwapSpace.begin
    patch.setattr(SwapSpace, "begin", lambda self: (real(self)[0], 0))


def the_last_out_is_the_first_back(patch: pytest.MonkeyPatch) -> None:
    real = Replica.preempt

    def preempt(self: Replica, seq: Any, **how: bool) -> None:
        real(self, seq, **how)
        if seq in self.swapped:
            self.swapped.remove(seq)
            self.swapped.put_back(seq)

    patch.setattr(Replica, "preempt", preempt)


def whoever_is_swapped_comes_back_at_once(patch: pytest.MonkeyPatch) -> None:
    real = PrefillFirst._decode

    def decode(self: PrefillFirst, view: Any, step: Any) -> None:
        real(self, view, step)
        if view.swapped_count and step.preemptions:
            self._swap_in(view, step)

    patch.setattr(PrefillFirst, "_decode", decode)
    patch.setattr(StepBuilder, "_just_swapped", lambda self, seq: False)


def the_host_is_never_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SwapSpace, "free", 1 << 30)


FAULTS = [
    prompts_come_before_the_swapped,
    copies_take_no_time,
    the_last_out_is_the_first_back,
    whoever_is_swapped_comes_back_at_once,
    the_host_is_never_full,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_noticed(plant: Any, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(60):
        case = workload(lab, Random(seed))
        try:
            found = case.disagreement(leap=True)
        except Exception as error:  # a broken engine may stumble over its own checks
            found = repr(error)
        if found:
            return
    pytest.fail(f"60 workloads did not notice: {plant.__name__}")
