"""The slow engine: a pass over the batch per step, nothing by formula. The fast one must agree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.leap import Span
from infersim.sim.engine.server import Server
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.group import DecodeGroup
from infersim.sim.state.replica import Replica

FEW = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Job:
    """One request in the slow engine; times in ps, -1 for never."""

    arrival: int
    prompt: int
    output: int
    known: int = 0
    computed: int = 0
    blocks: int = 0
    scheduled: int = -1
    first: int = -1
    last: int = -1
    preemptions: int = 0


@dataclass
class SlowEngine:
    """vLLM's V1 scheduler without a prefix cache: first come, first served, chunked prefill,
    paged KV, preemption by recompute, one step at a time. Method: `Scheduler.schedule` and
    `update_from_output`, read once more from top to bottom."""

    limits: EngineLimits
    cost: LinearCost
    jobs: list[Job]
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    steps: int = 0

    def play(self) -> None:
        """Serve all jobs, which come in order of arrival."""
        self.free, now, coming = self.limits.kv_blocks, 0, deque(self.jobs)
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.popleft())
            batch = self.schedule()
            for job, _ in batch:
                if job.scheduled < 0:
                    job.scheduled = now
            now += self.duration(batch)
            self.steps += 1
            self.update(batch, now)

    def schedule(self) -> list[tuple[Job, int]]:
        """Jobs of one step and the tokens that each computes."""
        batch, budget, preempted = [], self.limits.max_num_batched_tokens, False
        queue = list(self.running)
        while queue and budget:
            job = queue.pop(0)
            tokens = min(job.known - job.computed, budget)
            while not self.hold(job, job.computed + tokens):
                loser = self.running.pop()
                self.free += loser.blocks
                loser.blocks = loser.computed = 0
                loser.preemptions += 1
                self.waiting.appendleft(loser)
                preempted = True
                if loser is job:
                    break
                queue.remove(loser)
            else:
                batch.append((job, tokens))
                budget -= tokens
        while self.waiting and budget and not preempted:
            job = self.waiting[0]
            if len(self.running) == self.limits.max_num_seqs or self.pages(job.known) > self.free:
                break  # a request is admitted if all of it fits
            tokens = min(job.known, budget)
            self.hold(job, tokens)
            self.running.append(self.waiting.popleft())
            batch.append((job, tokens))
            budget -= tokens
        return batch

    def pages(self, tokens: int) -> int:
        """Blocks that *tokens* fill."""
        return -(-tokens // self.limits.block_size)

    def hold(self, job: Job, tokens: int) -> bool:
        """Allocate what the job's first *tokens* still need; False when there is not enough."""
        new = self.pages(tokens) - job.blocks
        if new > self.free:
            return False
        self.free -= new
        job.blocks += new
        return True

    def duration(self, batch: list[tuple[Job, int]]) -> int:
        """The step's time, term by term."""
        cost, total = self.cost, self.cost.base_ps
        for job, tokens in batch:
            total += cost.per_sequence_ps + cost.per_context_token_ps * (job.computed + tokens)
            total += cost.per_prefill_token_ps * tokens if tokens > 1 else 0
        return total

    def update(self, batch: list[tuple[Job, int]], now: int) -> None:
        """Book the outcome of a step that ended at *now*."""
        for job, tokens in batch:
            job.computed += tokens
            if job.computed < job.known:
                continue
            job.known += 1
            job.last = now
            if job.first < 0:
                job.first = now
            if job.known == job.prompt + job.output:
                self.free += job.blocks
                self.running.remove(job)


def slow(case: Any, sizes: list[tuple[int, int, int]]) -> tuple[list[Job], int]:
    """Jobs and step count when each replica in turn gets one of the requests."""
    jobs = [Job(at, prompt, output, known=prompt) for at, prompt, output in sizes]
    steps = 0
    for i in range(case.replicas):
        engine = SlowEngine(case.limits, case.cost, jobs[i :: case.replicas])
        engine.play()
        assert engine.free == case.limits.kv_blocks
        steps += engine.steps
    return jobs, steps


def workload(lab: Any, rng: Random) -> tuple[Any, list[tuple[int, int, int]]]:
    """A cluster without prefix cache, and (arrival, prompt, output) of its requests."""
    size = rng.choice((1, 3, 16))
    longest = rng.choice((10, 30, 120))
    limits = EngineLimits(
        kv_blocks=-(-longest // size) + rng.choice((0, 2, 10, 200)),
        block_size=size,
        max_model_len=longest,
        max_num_batched_tokens=rng.choice((1, 5, 32, 256)),
        max_num_seqs=rng.choice((1, 2, 8, 64)),
        prefix_caching=False,
        async_scheduling=False,
    )
    cost = rng.choice((LinearCost(1000), LinearCost(1000, 20, 30, 1), LinearCost(7, 0, 0, 5)))
    case = lab.Case(limits, [], cost=cost, replicas=rng.choice((1, 1, 2, 3)))
    at, sizes = 0, []
    for _ in range(rng.choice((2, 10, 25, 40))):
        at += rng.choice((0, 0, 1, 999, 1000, 1001, 5000, 60_000))
        prompt = rng.randint(1, longest // rng.choice((2, 3, 6)))
        room = longest - prompt
        sizes.append((at, prompt, rng.choice((1, min(2, room), rng.randint(1, room), room))))
    case.arrivals = [(at, lab.call(i, p, o)) for i, (at, p, o) in enumerate(sizes)]
    return case, sizes


def disagreement(case: Any, sizes: list[tuple[int, int, int]], *, leap: bool) -> str:
    """What the simulator says differently from the slow engine; "" when nothing."""
    jobs, steps = slow(case, sizes)
    out = case.run(leap=leap)
    columns = {"scheduled_ps": "scheduled", "first_token_ps": "first", "finish_ps": "last"}
    for column, name in (columns | {"preemptions": "preemptions"}).items():
        if out.requests[column].tolist() != [getattr(job, name) for job in jobs]:
            return column
    if out.totals["steps"] != steps:
        return "steps"
    return "totals" if out.totals["preemptions"] != sum(job.preemptions for job in jobs) else ""


@pytest.mark.parametrize("leap", [False, True], ids=["steps", "leaps"])
@FEW
@given(rng=st.randoms(use_true_random=False))
def test_the_fast_engine_agrees_with_the_slow_one(lab: Any, leap: bool, rng: Random) -> None:
    case, sizes = workload(lab, rng)
    assert disagreement(case, sizes, leap=leap) == ""


def test_the_workloads_reach_what_they_should(lab: Any) -> None:
    """Preemptions, one-token answers, ties, full batches: without them agreement means little."""
    preemptions = ones = ties = leapt = 0
    for seed in range(60):
        case, sizes = workload(lab, Random(seed))
        out = case.run()
        preemptions += out.totals["preemptions"]
        leapt += out.effort.leapt_steps
        ones += sum(output == 1 for _, _, output in sizes)
        ties += len(sizes) - len({at for at, _, _ in sizes})
    assert preemptions > 50
    assert ones > 50
    assert ties > 50
    assert leapt > 500


# ---- planted faults ----


def leap_one_step_too_far(patch: pytest.MonkeyPatch) -> None:
    real = Replica.repeats
    patch.setattr(Replica, "repeats", lambda self, plan: real(self, plan) + 1)


def arrivals_do_not_cut(patch: pytest.MonkeyPatch) -> None:
    real = Server._stir
    patch.setattr(Server, "_stir", lambda self: real(self) if not self.replica.in_flight else None)


def arrivals_cut_a_step_late(patch: pytest.MonkeyPatch) -> None:
    real = Span.steps_by
    patch.setattr(Span, "steps_by", lambda self, time_ps: real(self, time_ps) + 1)


def growth_is_not_reserved(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DecodeGroup, "steps_within", lambda self, step, free, most: most)


def steps_do_not_grow(patch: pytest.MonkeyPatch) -> None:
    real = Span.__init__
    patch.setattr(Span, "__init__", lambda self, start, first, growth: real(self, start, first, 0))


def a_block_is_counted_too_early(patch: pytest.MonkeyPatch) -> None:
    real = DecodeGroup.growth
    patch.setattr(DecodeGroup, "growth", lambda self, step: real(self, step + 1))


def a_member_reads_one_token_less(patch: pytest.MonkeyPatch) -> None:
    real = DecodeGroup.context_tokens
    patch.setattr(DecodeGroup, "context_tokens", lambda self, step: real(self, step) - self.size)


FAULTS = [
    leap_one_step_too_far,
    arrivals_do_not_cut,
    arrivals_cut_a_step_late,
    growth_is_not_reserved,
    steps_do_not_grow,
    a_block_is_counted_too_early,
    a_member_reads_one_token_less,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_noticed(plant: Any, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(60):
        case, sizes = workload(lab, Random(seed))
        try:
            found = disagreement(case, sizes, leap=True)
        except Exception as error:  # a broken engine may stumble over its own checks
            found = repr(error)
        if found:
            return
    pytest.fail(f"60 workloads did not notice: {plant.__name__}")
