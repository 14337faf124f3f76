"""The step is a transaction: every call is checked, illegal ones say in numbers what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from infersim.policies.errors import IllegalPlanError
from infersim.policies.eviction.lru import Lru
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import Segment
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.connector import Remote
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.queue import FifoQueue
from infersim.sim.state.replica import Replica
from infersim.sim.state.sequence import Sequence, Status
from infersim.sim.state.step import StepBuilder

FITS = {"whole": True, "watermark": 0.0}


class Later:
    """A connector that has the rest of every prompt, and sends it later; or does not know."""

    writes = True

    def __init__(self, *, knows: bool = True) -> None:
        self.knows = knows

    def planning(self) -> None:
        """Nothing to do."""

    def matched(self, seq: Sequence, local_tokens: int) -> Remote | None:
        return Remote(seq.prompt_tokens - local_tokens, True) if self.knows else None

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """Nothing to do."""

    def finished(self, seq: Sequence) -> bool:
        return False


class Bench:
    """A replica without a host, and its requests."""

    def __init__(self, lab: Any, prompts: list[int], connector: Any = None, **given: Any) -> None:
        limits = EngineLimits(
            **{
                "kv_blocks": 20,
                "block_size": 4,
                "max_model_len": 64,
                "max_num_batched_tokens": 16,
                "max_num_seqs": 3,
                "async_scheduling": False,
            }
            | given
        )
        pool = BlockPool(limits.kv_blocks, limits.block_size, Lru())
        self.replica = Replica(limits, pool, VllmV1(), FifoQueue, connector=connector)
        chains = Chains()
        self.seqs = []
        for i, prompt in enumerate(prompts):
            request = lab.request(i, segments=(Segment(i, 0, prompt),))
            chain = chains.chain(request.prompt)
            chain.append(request.output_content, 0, 0)
            self.seqs.append(Sequence(request, 30, chain, limits.max_model_len))
            self.replica.submit(self.seqs[-1])
        self.now = 0

    def step(self) -> StepBuilder:
        return StepBuilder(self.replica)

    def run(self, steps: int = 1) -> None:
        """Let vLLM's scheduler work for a while."""
        for _ in range(steps):
            self.now += 1
            plan = self.replica.schedule(self.now)
            self.replica.finish(plan, self.now)


def refused(says: str) -> Any:
    return pytest.raises(IllegalPlanError, match=says)


def test_admission_needs_a_fresh_prefix(lab: Any) -> None:
    bench = Bench(lab, [8, 8])
    step, (a, b) = bench.step(), bench.seqs
    with refused("ask for its prefix"):
        step.admit(a, 8, **FITS)
    assert step.prefix(a) == (0, False, False)
    assert step.prefix(b) == (0, False, False)
    assert step.admit(a, 8, **FITS)
    with refused("ask for its prefix before, and after any change of KV"):
        step.admit(b, 8, **FITS)
    step.prefix(b)
    assert step.admit(b, 8, **FITS)
    assert [(c.seq.id, c.tokens) for c in step.close().chunks] == [(0, 8), (1, 8)]


def test_admission_is_within_what_is_left_and_the_budget(lab: Any) -> None:
    bench = Bench(lab, [20, 5])
    step, (a, b) = bench.step(), bench.seqs
    step.prefix(a)
    for tokens in (-1, 0, 17):
        with refused(f"{tokens} tokens of .*, 0 of them drafts: 20 are left .* the step has 16"):
            step.admit(a, tokens, **FITS)
    with refused("3 tokens of .*, 2 of them drafts: 22 are left"):
        step.admit(a, 3, drafts=2, **FITS)
    step.prefix(b)
    with refused("6 tokens of .*: 5 are left to compute"):
        step.admit(b, 6, **FITS)
    assert step.close().tokens == 0
    assert bench.replica.pool.check() == 0


def test_the_batch_is_no_larger_than_its_limit(lab: Any) -> None:
    bench = Bench(lab, [2, 2], max_num_seqs=1)
    step, (a, b) = bench.step(), bench.seqs
    step.prefix(a)
    assert step.admit(a, 2, **FITS)
    step.prefix(b)
    with refused("cannot be admitted: 1 are running"):
        step.admit(b, 2, **FITS)


def test_admission_that_does_not_fit_changes_nothing(lab: Any) -> None:
    bench = Bench(lab, [30, 60], max_num_batched_tokens=64)
    (a, b), replica = bench.seqs, bench.replica
    step = bench.step()
    step.prefix(a)
    assert step.admit(a, 30, **FITS)
    step.prefix(b)
    assert not step.admit(b, 4, **FITS)  # 15 blocks of 20, and 8 are held
    assert step.admit(b, 4, whole=False, watermark=0.0)  # its first chunk needs one only
    step.preempt(b)
    step.prefix(b)
    assert not step.admit(b, 4, whole=False, watermark=0.6)  # 12 of 21 must stay free
    assert list(replica.waiting) == [b]
    assert replica.pool.check() == 8
    assert step.budget == 34  # what b was given came back


def test_what_runs_cannot_be_admitted_looked_up_or_put_aside(lab: Any) -> None:
    bench = Bench(lab, [8, 8])
    bench.run()
    step, (a, _) = bench.step(), bench.seqs
    for call, says in (
        (step.prefix, "looked up"),
        (step.put_aside, "put aside"),
    ):
        with refused(f"cannot be {says}: it is not in the waiting line"):
            call(a)


def test_what_was_put_aside_is_out_of_this_step(lab: Any) -> None:
    bench = Bench(lab, [8, 8])
    step, (a, b) = bench.step(), bench.seqs
    assert step.next_waiting() is a
    step.put_aside(a)
    assert step.next_waiting() is b
    with refused("cannot be looked up"):
        step.prefix(a)
    with refused("cannot be put aside"):
        step.put_aside(a)
    assert bench.replica.waiting_ready_count == 1
    step.close()
    assert list(bench.replica.waiting) == [a, b]


def test_taking_is_within_what_is_wanted_and_the_budget(lab: Any) -> None:
    bench = Bench(lab, [40, 8], max_num_batched_tokens=32)
    bench.run()  # 32 of 40
    step, (a, b) = bench.step(), bench.seqs
    assert step.wanted(a) == 8
    for tokens in (0, 9, 40):
        with refused(f"{tokens} tokens of .*: it wants 8, the step has 32"):
            step.take(a, tokens)
    with refused("not running, or taken already"):
        step.take(b, 1)
    assert step.take(a, 8)
    with refused("not running, or taken already"):
        step.take(a, 1)
    assert step.budget == 24


def test_taking_without_blocks_is_refused_as_a_value(lab: Any) -> None:
    bench = Bench(lab, [30, 30], kv_blocks=16, max_num_batched_tokens=64)
    bench.run(3)  # 32 tokens and 8 blocks each, none free
    step, (a, b) = bench.step(), bench.seqs
    assert not step.take(b, 1)
    assert step.preempt(b)
    assert step.take(a, 1)
    assert [seq.id for seq in step.close().preempted] == [1]
    assert (b.status, b.recomputed) == (Status.PREEMPTED, 32)


def test_only_what_runs_can_be_preempted(lab: Any) -> None:
    bench = Bench(lab, [8])
    with refused("cannot be preempted: it is not running"):
        bench.step().preempt(bench.seqs[0])


def test_decodes_are_taken_once_and_together(lab: Any) -> None:
    bench = Bench(lab, [4, 4])
    bench.run(2)
    step, (a, b) = bench.step(), bench.seqs
    assert step.take_decodes(last_gives_way=True)
    assert step.budget == 14
    assert step.wanted(a) == 0  # it has its token
    with refused("the 2 decodes of this step are taken already"):
        step.take_decodes(last_gives_way=True)
    with refused("the decodes of this step were taken together"):
        step.preempt(b)
    with refused("not running, or taken already"):
        step.take(a, 1)
    plan = step.close()
    assert (plan.group, plan.tokens, plan.chunks) == (2, 2, [])


def test_decodes_one_by_one_are_the_same_as_together(lab: Any) -> None:
    together, apart = Bench(lab, [4, 6, 3]), Bench(lab, [4, 6, 3])
    for bench in (together, apart):
        bench.run(2)
    for _ in range(9):
        together.run()
        step = apart.step()
        for seq in list(apart.replica.running):
            assert step.take(seq, step.wanted(seq))
        apart.now += 1
        apart.replica.finish(step.close(), apart.now)
    assert len(together.replica.running) == 3
    for one, other in zip(together.seqs, apart.seqs, strict=True):
        assert one.computed_tokens == other.computed_tokens
        assert one.known_tokens == other.known_tokens == one.computed_tokens + 1
    assert together.replica.pool.check() == apart.replica.pool.check()


def test_members_that_got_no_token_stay_behind(lab: Any) -> None:
    """A policy may leave decodes out; who gets none does not advance."""
    bench = Bench(lab, [4, 4])
    bench.run(2)
    step, (a, b) = bench.step(), bench.seqs
    before = (a.computed_tokens, b.computed_tokens)
    assert step.take(a, 1)
    bench.replica.finish(step.close(), 9)
    assert (a.computed_tokens, b.computed_tokens) == (before[0] + 1, before[1])


def test_kv_that_comes_later_is_loaded_not_admitted(lab: Any) -> None:
    bench = Bench(lab, [10, 8], Later())
    step, (a, b) = bench.step(), bench.seqs
    with refused("ask for its prefix"):
        step.load(a, **FITS)
    assert step.prefix(a) == (10, True, False)
    with refused(r"needs load\(\): 10 tokens come later"):
        step.admit(a, 1, **FITS)
    assert step.load(a, **FITS)
    with refused("cannot be looked up"):
        step.prefix(a)
    assert step.next_waiting() is b
    plan = step.close()
    assert plan.tokens == 0
    assert bench.replica.expects_news
    assert (bench.replica.waiting_count, list(bench.replica.holding)) == (2, [a])
    step = bench.step()
    assert step.next_waiting() is b  # a still loads
    step.close()
    bench.replica.received(a)
    step = bench.step()
    assert step.next_waiting() is a
    assert step.prefix(a) == (9, False, False)  # the last token is computed here
    with refused(r"needs admit\(\)"):
        step.load(a, **FITS)
    assert step.admit(a, 1, **FITS)


def test_a_connector_may_not_know_yet(lab: Any) -> None:
    bench = Bench(lab, [10, 8], Later(knows=False))
    step, (a, b) = bench.step(), bench.seqs
    assert step.prefix(a) is None
    assert step.next_waiting() is b
    step.close()
    assert list(bench.replica.waiting) == [a, b]


def test_blocks_that_a_step_in_flight_may_touch_are_not_freed(lab: Any) -> None:
    """Asynchronous engine, KV written from outside: a victim must wait until its step ended."""
    bench = Bench(lab, [4], Later(), async_scheduling=True)
    (a,), replica = bench.seqs, bench.replica
    replica.schedule(1)
    replica.received(a)
    plan = replica.schedule(2)
    assert plan.tokens == 1
    step = bench.step()
    assert not step.preempt(a)
    assert (a.status, replica.unsettled) == (Status.RUNNING, True)
    step.close()
    replica.finish(plan, 3)
    assert bench.step().preempt(a)


def test_a_client_that_goes_away_is_forgotten_wherever_its_request_is(lab: Any) -> None:
    bench = Bench(lab, [4, 4, 4, 4], max_num_seqs=2)
    bench.run(3)
    decoding, also, waiting, last = bench.seqs
    for seq in (waiting, decoding, last):
        bench.replica.abort(seq)
        assert seq.status is Status.FINISHED
    assert bench.replica.finished == [waiting, decoding, last]
    assert list(bench.replica.running) == [also]
    bench.run(2)
    bench.replica.abort(also)
    assert not bench.replica.has_requests
    assert bench.replica.pool.check() == 0
