"""Reservations, prefills before decodes, and static batches: closed forms, and the same bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from infersim.policies.errors import IllegalPlanError
from infersim.policies.eviction.lru import Lru
from infersim.policies.scheduling.in_flight import InFlight
from infersim.policies.scheduling.prefill_first import PrefillFirst
from infersim.policies.scheduling.static_batch import StaticBatch
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.linear import LinearCost
from infersim.sim.cost.shape import shape_of
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.content import Chains
from infersim.sim.state.plan import Chunk, StepPlan
from infersim.sim.state.rectangle import Rectangle
from infersim.sim.state.sequence import Sequence

STEP = 1000  #: ps of every step of the cases without a price on tokens


def limits(kv: int = 1000, **given: Any) -> EngineLimits:
    plain = {"block_size": 1, "max_model_len": kv, "max_num_batched_tokens": 10_000}
    plain |= {"prefix_caching": False, "async_scheduling": False}
    return EngineLimits(kv, **(plain | given))


def case(lab: Any, scheduler: Any, calls: list[Any], **given: Any) -> Any:
    """*calls* are (when, prompt, output, max_tokens)."""
    cost = given.pop("cost", LinearCost(STEP))
    arrivals = [
        (at, lab.call(i + 1, prompt, output, max_tokens=most))
        for i, (at, prompt, output, most) in enumerate(calls)
    ]
    found = lab.Case(limits(**given), arrivals, cost=cost)
    found.make_scheduler = scheduler
    return found


def times(outcome: Any, column: str) -> list[int]:
    return [int(value) for value in outcome.requests[column]]


# ---- static batches -----------------------------------------------------------------------------


def test_a_static_batch_makes_short_answers_wait_for_the_longest(lab: Any) -> None:
    calls = [(0, 10, 3, 50), (0, 10, 40, 50), (1, 10, 5, 50)]
    out = case(lab, lambda: StaticBatch(pad_ended=True, together=True), calls).run()
    assert times(out, "finish_ps") == [40 * STEP, 40 * STEP, 45 * STEP]
    assert times(out, "first_token_ps") == [STEP, STEP, 41 * STEP]
    apart = case(lab, lambda: StaticBatch(), calls).run()
    assert times(apart, "finish_ps") == [3 * STEP, 40 * STEP, 45 * STEP]
    mixed = case(lab, lambda: InFlight(), calls).run()
    assert times(mixed, "finish_ps") == [3 * STEP, 40 * STEP, 6 * STEP]


def test_padding_costs_what_the_rectangle_costs(lab: Any) -> None:
    """Prompts of 4 and 10, answers of 3 and 6: two rows of 10 + k positions for 5 decodes."""
    calls = [(0, 4, 3, 6), (0, 10, 6, 6)]
    cost = LinearCost(STEP, 7, 100, 3)
    out = case(lab, lambda: StaticBatch(pad_prompts=True, pad_ended=True), calls, cost=cost).run()
    prefill = STEP + 2 * 10 * 7 + 2 * 100 + 2 * 10 * 3
    decodes = sum(STEP + 2 * 100 + 2 * (10 + k) * 3 for k in range(1, 6))
    assert times(out, "finish_ps")[1] == prefill + decodes
    bare = case(lab, lambda: StaticBatch(), calls, cost=cost).run()
    prefill = STEP + 14 * 7 + 2 * 100 + 14 * 3
    both = sum(STEP + 200 + (4 + k + 10 + k) * 3 for k in (1, 2))
    alone = sum(STEP + 100 + (10 + k) * 3 for k in (3, 4, 5))
    assert times(bare, "finish_ps")[1] == prefill + both + alone
    shrinks = case(lab, lambda: StaticBatch(pad_prompts=True), calls, cost=cost).run()
    prefill = STEP + 2 * 10 * 7 + 2 * 100 + 2 * 10 * 3
    both = sum(STEP + 200 + 2 * (10 + k) * 3 for k in (1, 2))
    assert times(shrinks, "finish_ps")[1] == prefill + both + alone


def test_every_cost_model_sees_the_padding(lab: Any) -> None:
    plan, chains = StepPlan(3), Chains()
    asked = [lab.request(i, 9) for i in range(2)]
    seqs = [Sequence(one, 5, chains.chain(one.prompt), 100) for one in asked]
    plan.chunks = [Chunk(seqs[0], 0, 1, 0, True, False), Chunk(seqs[1], 0, 9, 0, True, False)]
    plan.tokens, batch = 10, Rectangle(3, 2, 9, True, True, True)
    batch.pad(plan)
    assert shape_of(plan) == StepShape(0, 0, ((9, 0), (9, 0)), 2)
    assert plan.computed_tokens == 18
    later = StepPlan(5)
    later.group, later.group_context_tokens, later.tokens = 1, 11, 1
    batch.pad(later)
    assert shape_of(later) == StepShape(2, 22, (), 2)
    assert (later.line, later.computed_tokens) == ((2, 22, 2), 2)


def test_a_batch_waits_for_more_until_the_delay_is_over(lab: Any) -> None:
    calls = [(0, 4, 2, 2), (300, 4, 2, 2), (5000, 4, 2, 2)]
    out = case(lab, lambda: StaticBatch(max_queue_delay_s=800e-12), calls).run()
    assert times(out, "scheduled_ps") == [800, 800, 5800]
    full = case(lab, lambda: StaticBatch(max_queue_delay_s=800e-12), calls, max_num_seqs=2).run()
    assert times(full, "scheduled_ps") == [300, 300, 5800]


def test_a_padded_batch_is_as_large_as_its_rectangle_allows(lab: Any) -> None:
    calls = [(0, 10, 2, 2), (0, 100, 2, 2), (0, 10, 2, 2), (0, 10, 2, 2)]
    out = case(lab, lambda: StaticBatch(pad_prompts=True), calls, max_num_batched_tokens=200).run()
    assert times(out, "scheduled_ps") == [0, 0, 2 * STEP, 2 * STEP]
    short = case(lab, lambda: StaticBatch(pad_prompts=True), calls, kv=220).run()
    assert times(short, "scheduled_ps") == [0, 0, 2 * STEP, 2 * STEP]


class Joins(StaticBatch):
    """Admits whoever waits into whatever runs."""

    def schedule(self, view: Any, step: Any) -> None:
        StaticBatch.schedule(self, view, step)
        seq = step.next_waiting()
        if seq is not None:
            step.prefix(seq)
            step.admit(seq, 1, whole=True, watermark=0.0)


def test_nobody_joins_a_static_batch(lab: Any) -> None:
    with pytest.raises(IllegalPlanError, match="a static batch is running"):
        case(lab, lambda: Joins(together=True), [(0, 4, 9, 9), (1500, 4, 9, 9)]).run()


# ---- reservations -------------------------------------------------------------------------------

SIX = [(0, 10, 20, 30)] * 6


@pytest.mark.parametrize(("reserve", "together"), [("answer", 2), ("context", 1), ("nothing", 6)])
def test_a_reservation_limits_the_batch(lab: Any, reserve: Any, together: int) -> None:
    """KV of 100: 100 // (10 + 30) requests with their answers, 100 // 100 with their contexts."""
    scheduler = lambda: InFlight(reserve=reserve, hold=reserve != "nothing")  # noqa: E731
    out = case(lab, scheduler, SIX, kv=100).run()
    started = Counter(times(out, "scheduled_ps"))
    assert started[0] == together
    assert (out.totals["preemptions"] > 0) == (reserve == "nothing")


def test_kv_that_is_promised_is_taken_as_it_is_needed(lab: Any) -> None:
    """No-evict admits as many as contiguous KV does, and uses less until it needs it."""
    found = {}
    for hold in (False, True):
        scheduler = lambda hold=hold: InFlight(reserve="answer", hold=hold)  # noqa: E731
        one = case(lab, scheduler, [(0, 10, 20, 30)], kv=100, cost=LinearCost(10**11))
        found[hold] = one.run()
    held = {hold: out.series["kv_used_blocks"] for hold, out in found.items()}
    assert max(held[True]) == 40
    assert 0 < min(held[False][held[False] > 0]) < max(held[False]) <= 29


def test_no_evict_never_preempts_and_max_utilization_does(lab: Any) -> None:
    calls = [(100 * i, 5 + i % 7, 10 + i % 13, 30) for i in range(40)]
    for hold in (False, True):
        scheduler = lambda hold=hold: InFlight(reserve="answer", hold=hold)  # noqa: E731
        assert case(lab, scheduler, calls, kv=90).run().totals["preemptions"] == 0
    most = case(lab, lambda: InFlight(reserve="nothing"), calls, kv=90).run()
    assert most.totals["preemptions"] > 0


def test_what_can_never_be_served_fails_by_name(lab: Any) -> None:
    calls = [(0, 50, 2, 10), (0, 5, 2, 10), (0, 30, 2, 10)]
    out = case(lab, lambda: InFlight(chunked_prefill=False), calls, max_num_batched_tokens=20).run()
    assert list(out.requests["status"]) == ["failed", "finished", "failed"]
    assert "over the 20 tokens of a step" in out.requests["reason"][0]
    wide = case(lab, lambda: InFlight(), [(0, 5, 2, 500), (0, 5, 2, 9)], kv=50, max_model_len=200)
    out = wide.run()
    assert list(out.requests["status"]) == ["failed", "finished"]
    assert "needs KV for 200 tokens set aside" in out.requests["reason"][0]


# ---- prefill first ------------------------------------------------------------------------------


def test_a_prefill_stalls_those_who_decode(lab: Any) -> None:
    calls = [(0, 10, 10, 10), (3500, 1000, 2, 2)]
    cost = LinearCost(STEP, 50)
    first = case(lab, lambda: PrefillFirst(), calls, kv=5000, cost=cost).run()
    prefill = STEP + 1000 * 50
    begun = STEP + 500 + 2 * STEP  # the first prompt, then decodes until the second came
    assert times(first, "first_token_ps")[1] == begun + prefill
    assert times(first, "finish_ps")[0] == STEP + 500 + 9 * STEP + prefill
    mixed = case(lab, lambda: InFlight(), calls, kv=5000, cost=cost).run()
    assert times(mixed, "finish_ps")[0] == STEP + 500 + 9 * STEP + 1000 * 50


def test_the_served_ratio_holds_a_few_back_until_they_waited_long_enough(lab: Any) -> None:
    """A batch of 10 and a ratio of .3: three start at once, one waits for 20 tokens."""
    batch = [(0, 10, 100, 100)] * 10
    scheduler = lambda: PrefillFirst(  # noqa: E731
        waiting_served_ratio=0.3, alternate=True, reserve="answer", hold=True
    )
    three = case(lab, scheduler, [*batch, *[(1500, 10, 2, 2)] * 3], kv=5000).run()
    assert times(three, "scheduled_ps")[10] == 2 * STEP
    one = case(lab, scheduler, [*batch, (1500, 10, 2, 2)], kv=5000).run()
    assert times(one, "scheduled_ps")[10] == 20 * STEP


def test_after_a_prefill_the_batch_decodes_if_it_alternates(lab: Any) -> None:
    calls = [(0, 10, 50, 50), (1500, 100, 2, 2), (2500, 100, 2, 2)]
    for alternate, second in ((False, 3), (True, 4)):
        scheduler = lambda alternate=alternate: PrefillFirst(alternate=alternate)  # noqa: E731
        out = case(lab, scheduler, calls, kv=5000).run()
        assert times(out, "scheduled_ps")[1:] == [2 * STEP, second * STEP]


def test_room_is_left_for_a_block_of_each(lab: Any) -> None:
    calls = [(0, 40, 8, 8), (0, 40, 8, 8)]
    tight = case(lab, lambda: PrefillFirst(decode_room_blocks=1), calls, kv=81).run()
    assert times(tight, "scheduled_ps") == [0, 8 * STEP]
    roomy = case(lab, lambda: PrefillFirst(decode_room_blocks=1), calls, kv=82).run()
    assert times(roomy, "scheduled_ps") == [0, 0]


# ---- the same bytes -----------------------------------------------------------------------------


def random_scheduler(rng: Random, kind: str) -> Any:
    reserve = rng.choice(("nothing", "answer", "context"))
    hold = reserve != "nothing" and rng.random() < 0.5
    kept = {"reserve": reserve, "hold": hold}
    if kind == "in-flight":
        given = {**kept, "chunked_prefill": rng.random() < 0.6}
        return lambda: InFlight(**given)
    if kind == "prefill-first":
        given = kept | {
            "chunked_prefill": rng.random() < 0.4,
            "max_prefill_tokens": rng.choice((None, 4, 20)),
            "waiting_served_ratio": rng.choice((0.0, 0.3, 1.2, 3.0)),
            "max_waiting_tokens": rng.choice((0, 2, 20)),
            "alternate": rng.random() < 0.5,
            "decode_room_blocks": rng.choice((0, 0, 1)),
            "watermark": rng.choice((0.0, 0.05)),
        }
        return lambda: PrefillFirst(**given)
    given = {
        "reserve": rng.choice(("answer", "context")),
        "hold": rng.random() < 0.6,
        "pad_prompts": rng.random() < 0.5,
        "pad_ended": rng.random() < 0.5,
        "together": rng.random() < 0.5,
        "max_queue_delay_s": rng.choice((0.0, 0.0, 0.05, 10.0)),
    }
    return lambda: StaticBatch(**given)


@pytest.mark.parametrize("kind", ["in-flight", "prefill-first", "static-batch"])
def test_leaps_change_no_byte(lab: Any, kind: str) -> None:
    leapt = finished = 0
    for seed in range(70):
        rng = Random(seed * 7 + 1)
        one = lab.random_case(rng)
        one.make_scheduler = random_scheduler(rng, kind)
        if kind == "static-batch":
            one.limits = replace(one.limits, num_spec_tokens=0, lookahead_tokens=0)
        if rng.random() < 0.2 and not one.decoders:
            one.ranks = 2
        if rng.random() < 0.2:
            one.limits = replace(one.limits, prefix_index="radix")
        by_leaps = one.run(leap=True)
        assert lab.differing(by_leaps, one.run(leap=False)) == []
        leapt += by_leaps.effort.leapt_steps
        finished += int(np.count_nonzero(by_leaps.requests["status"] == "finished"))
    assert leapt > 500
    assert finished > 300


@pytest.mark.parametrize("kind", ["in-flight", "prefill-first", "static-batch"])
def test_runs_of_blocks_change_no_byte(lab: Any, kind: str) -> None:
    for seed in range(40):
        rng = Random(seed * 11 + 3)
        one = lab.random_case(rng, by_block=False)
        one.make_scheduler = random_scheduler(rng, kind)
        if kind == "static-batch":
            one.limits = replace(one.limits, num_spec_tokens=0, lookahead_tokens=0)
        by_run = one.run()
        assert one.eviction is Lru
        one.eviction = lab.LruByBlock
        assert lab.differing(by_run, one.run()) == []
