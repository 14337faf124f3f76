"""The small parts of a replica's state, each against a version that does it the long way."""

from __future__ import annotations

import math
import pickle
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import IllegalPlanError
from infersim.policies.eviction.base import Eviction, Key
from infersim.policies.types import CachedBlock, MultiModalItem, Promise, Request, Segment
from infersim.sim.state.content import Chain, Chains, Contents
from infersim.sim.state.encoder import EncoderCache
from infersim.sim.state.group import DecodeGroup
from infersim.sim.state.kv.idle import IdleOrder
from infersim.sim.state.queue import FifoQueue, GroupedQueue, OrderedQueue
from infersim.sim.state.records import Columns, GapHistogram
from infersim.sim.state.sequence import Sequence, Status
from infersim.sim.state.streams import Streams
from infersim.sim.state.transfer import KVTransfer, Stage

FEW = settings(max_examples=60, derandomize=True, deadline=None)


def sequence(lab: Any, number: int = 0, prompt: int = 8, output: int = 4, **given: Any) -> Sequence:
    """A sequence whose prompt is one text of its own."""
    request = lab.request(number, prompt, **given)
    chain = Chains().chain(request.prompt)
    return Sequence(request, output, chain, 1000)


# ---- the decode group ----


def grown(members: dict[Sequence, tuple[int, int]], size: int, more: int = 0) -> int:
    """Blocks taken since each member joined, had all computed *more* tokens."""
    return sum(-(-(n + more) // size) - seq.entry_blocks for seq, (n, _) in members.items())


@FEW
@given(rng=st.randoms(use_true_random=False))
def test_the_group_counts_as_if_every_step_did(lab: Any, rng: Random) -> None:
    """Blocks and context by formula, against a walk over the members at every step."""
    size = rng.choice((1, 2, 5, 16))
    group, step, members = DecodeGroup(size), rng.randrange(40), {}
    for _ in range(40):
        if rng.random() < 0.4 or not members:
            seq = sequence(lab, len(members))
            seq.computed = rng.randrange(1, 50)
            seq.blocks = -(-seq.computed // size)
            group.add(seq, step)
            members[seq] = seq.computed, seq.blocks
        elif rng.random() < 0.3:
            seq = rng.choice(list(members))
            computed, blocks = members.pop(seq)
            assert group.remove(seq, step) == -(-computed // size) - seq.entry_blocks
            assert (seq.computed, seq.base) == (computed, None)
            assert -(-computed // size) == blocks
        held = grown(members, size)
        assert group.size == len(members)
        assert group.taken(step) == held
        need = {seq: computed % size == 0 for seq, (computed, _) in members.items()}
        assert {seq: bool(group.needs_block(seq, step)) for seq in members} == need
        growth = group.growth(step)
        assert growth == sum(need.values())
        context = sum(computed + 1 for computed, _ in members.values())
        assert group.context_tokens(step) == context
        free, most = rng.randrange(12), rng.randrange(1, 30)
        expected = 0
        while expected < most and grown(members, size, expected + 1) - held <= free:
            expected += 1
        assert group.steps_within(step, free, most) == expected
        step += 1
        members = {seq: (c + 1, -(-(c + 1) // size)) for seq, (c, _) in members.items()}


# ---- queues ----


def test_a_fifo_line_keeps_its_order(lab: Any) -> None:
    line, seqs = FifoQueue(), [sequence(lab, i) for i in range(5)]
    for seq in seqs[:3]:
        line.add(seq)
    line.put_back(seqs[3])
    assert list(line) == [seqs[3], *seqs[:3]]
    aside = [line.pop(), line.pop()]
    line.put_aside_back(aside)
    line.remove(seqs[1])
    line.refresh(0)
    assert [line.peek(), *line] == [seqs[3], seqs[3], seqs[0], seqs[2]]


def test_an_ordered_line_goes_by_key_then_arrival(lab: Any) -> None:
    line = OrderedQueue(lambda seq: (seq.request.priority,), dynamic=False)
    seqs = [sequence(lab, i, priority=p) for i, p in enumerate((2, 1, 1, 0))]
    for seq in reversed(seqs):
        line.add(seq)
    assert [seq.id for seq in line] == [3, 1, 2, 0]
    aside = [line.pop(), line.pop()]
    assert len(line) == 2
    line.put_aside_back(aside)
    line.remove(seqs[1])
    line.put_back(seqs[1])
    assert [line.peek().id, *(line.pop().id for _ in range(4))] == [3, 3, 1, 2, 0]


@pytest.mark.parametrize("dynamic", [False, True])
def test_only_an_order_that_moves_is_sorted_again(lab: Any, dynamic: bool) -> None:
    rank = {0: 5, 1: 6}
    line = OrderedQueue(lambda seq: (rank[seq.id],), dynamic=dynamic)
    for i in range(2):
        line.add(sequence(lab, i))
    rank[1] = 0
    line.refresh(0)
    assert line.peek().id == int(dynamic)


@FEW
@given(rng=st.randoms(use_true_random=False))
def test_a_line_of_groups_is_the_line_sorted_again(lab: Any, rng: Random) -> None:
    """Whatever joins, leaves and moves, and whoever leads: the heap of all keys says the same."""
    weight = dict.fromkeys("abc", 0)

    def key(seq: Sequence) -> tuple[int, int]:
        return weight[seq.request.tenant], seq.request.priority

    lines = OrderedQueue(key, dynamic=True), GroupedQueue(key, lambda seq: seq.request.tenant)
    free = [
        sequence(lab, i, tenant=rng.choice("abc"), priority=rng.randrange(3)) for i in range(12)
    ]
    inside: list[Sequence] = []
    for _ in range(60):
        move = rng.choice(("add", "pop", "remove", "weigh", "aside"))
        if move == "add" and free:
            inside.append(free.pop(rng.randrange(len(free))))
            for line in lines:
                rng.choice((line.add, line.put_back))(inside[-1])
        elif move == "weigh":
            weight[rng.choice("abc")] += rng.randrange(3)
            for line in lines:
                line.refresh(0)
        elif move == "aside" and inside:
            for line in lines:
                line.put_aside_back([line.pop() for _ in range(rng.randrange(len(line)))])
        elif inside and move in ("pop", "remove"):
            gone = lines[0].peek() if move == "pop" else rng.choice(inside)
            for line in lines:
                line.pop() if move == "pop" else line.remove(gone)
            inside.remove(gone)
            free.append(gone)
        assert len(lines[0]) == len(lines[1]) == len(inside)
        assert list(lines[0]) == list(lines[1])
        if inside:
            assert lines[0].peek() is lines[1].peek()


# ---- idle KV ----


class Fading(Eviction):
    """Keys (1, t) turn into (0,) at time t, those of odd t into (1, t + 1) first."""

    promise = Promise(dynamic=True)

    def next_key(self, key: Key) -> tuple[int, Key] | None:
        if not key[0]:
            return None
        return (key[1], (1, key[1] + 1)) if key[1] % 2 else (key[1], (0,))


@FEW
@given(rng=st.randoms(use_true_random=False))
def test_idle_units_leave_by_key_then_age(rng: Random) -> None:
    """Against a list that is searched for its smallest key every time."""
    order: IdleOrder[int] = IdleOrder(Fading())
    units: dict[int, tuple[int, int]] = {}  # unit -> (time its key fades, age)
    now = age = 0

    def rank(unit: int) -> tuple[Any, ...]:
        fades, born = units[unit]
        last = fades + fades % 2  # odd ones fade in two stages
        if last <= now:
            return (0,), born
        return (1, last if fades <= now else fades), born

    for unit in range(120):
        now += rng.randrange(3)
        action = rng.random()
        if action < 0.6 or not units:
            age += 1
            units[unit] = (now + rng.randrange(6), age)
            order.put(unit, (1, units[unit][0]))
        elif action < 0.75:
            gone = rng.choice(list(units))
            del units[gone]
            order.remove(gone)
        else:
            first = min(units, key=rank)
            assert order.pop(now) == first
            del units[first]
        assert len(order) == len(units)


def test_fixed_keys_are_never_asked_again() -> None:
    class Fixed(Eviction):
        def key(self, block: CachedBlock, request: Request | None, now: int) -> Key:
            return (3,)

    order: IdleOrder[int] = IdleOrder(Fixed())
    order.add(range(200), [(-i % 4,) for i in range(200)])
    for i in range(0, 200, 2):
        order.remove(i)
    order.put(1000, (9,))  # the heap is rebuilt: more stale entries than live ones
    assert order.units()[:3] == [3, 7, 11]
    assert [order.pop(0) for _ in range(3)] == [3, 7, 11]
    assert order.units()[-1] == 1000
    with pytest.raises(NotImplementedError):
        Eviction().key(CachedBlock(0, 0, 1, 0, 0), None, 0)


# ---- content ----

PARTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(1, 5)), max_size=5)


def spelled(parts: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(content, offset + i) for content, offset, size in parts for i in range(size)]


@FEW
@given(one=PARTS, two=PARTS, size=st.integers(1, 4))
def test_block_keys_are_equal_exactly_where_prefixes_are(one: Any, two: Any, size: int) -> None:
    chains = Chains()
    a, b = (chains.chain(Segment(*part) for part in parts) for parts in (one, two))
    x, y = spelled(one), spelled(two)
    blocks = min(len(x), len(y)) // size
    mine, theirs = a.block_keys(0, blocks, size), b.block_keys(0, blocks, size)
    for i in range(blocks):
        end = (i + 1) * size
        assert (mine[i] == theirs[i]) == (x[:end] == y[:end])
    assert len({*mine}) == blocks
    for first in range(blocks + 1):
        assert a.block_keys(first, blocks, size) == mine[first:]


def test_namespaces_never_share() -> None:
    chains, prompt = Chains(), (Segment(0, 0, 8),)
    kinds: list[dict[str, Any]] = [{}, {"lora": "x"}, {"salt": "x"}, {"model": "x"}]
    roots = [chains.chain(prompt, **kind) for kind in kinds]
    for i, one in enumerate(roots):
        for j, other in enumerate(roots):
            assert one.agrees(other, 8) == (8 if i == j else 0)
            assert (one.block_keys(0, 2, 4) == other.block_keys(0, 2, 4)) == (i == j)


def test_an_answer_grows_into_the_prompt_that_quotes_it() -> None:
    chains = Chains()
    answered = chains.chain((Segment(0, 0, 5),))
    answered.append(7, 0, 0)
    quoting = chains.chain((Segment(0, 0, 5), Segment(7, 0, 9)))
    other = chains.chain((Segment(0, 0, 5), Segment(8, 0, 9)))
    assert answered.agrees(quoting, 12) == 12
    assert answered.agrees(other, 12) == 5
    with pytest.raises(ValueError, match="can only be the last"):
        answered.append(9, 0, 3)


def test_items_are_part_of_what_a_prompt_says() -> None:
    """The same text around other pictures differs from where the picture begins."""
    chains, text = Chains(), (Segment(0, 0, 6), Segment(1, 0, 10))

    def of(*items: MultiModalItem) -> Chain:
        return chains.chain(text, items=items)

    one, other = of(MultiModalItem(5, 4, 4)), of(MultiModalItem(6, 4, 4))
    assert one.agrees(of(MultiModalItem(5, 4, 4)), 16) == 16
    assert one.agrees(other, 16) == 4
    assert one.agrees(of(), 16) == 4
    assert of(MultiModalItem(5, 12, 4)).agrees(of(), 16) == 12
    assert one.tokens == other.tokens == 16


def test_contents_are_numbered_in_order_of_first_use() -> None:
    contents = Contents()
    assert [contents.id("a"), contents.id("b", 1), contents.id("a"), contents.id("b", 2)] == [
        0,
        1,
        0,
        2,
    ]


# ---- the encoder's cache ----


def viewer(lab: Any, number: int, *items: tuple[int, int, int]) -> Sequence:
    return sequence(lab, number, 40, items=tuple(MultiModalItem(*item) for item in items))


def test_encoder_outputs_are_shared_and_the_first_let_go_leaves_first(lab: Any) -> None:
    cache = EncoderCache(10)
    a, b = viewer(lab, 0, (7, 0, 4), (8, 10, 4)), viewer(lab, 1, (7, 5, 4))
    for index in (0, 1):
        assert not cache.use(a, index)
        assert cache.make_room(a.request.items[index], 100, 0)
        cache.store(a, index)
    assert cache.use(b, 0)
    large = MultiModalItem(9, 0, 6)
    assert not cache.make_room(large, 5, 0)  # over the step's budget
    assert not cache.make_room(large, 6, 0)  # 2 are free, and nothing may leave
    cache.release_passed(a, 13)
    assert cache.holds(a)  # item 8 ends at 14
    cache.release_passed(a, 14)
    assert not cache.holds(a)
    assert cache.make_room(MultiModalItem(9, 0, 6), 6, 0)  # 8 leaves, b still holds 7
    assert cache.evicted
    assert cache.take_evicted() == [8]
    assert not cache.evicted
    c = viewer(lab, 2, (9, 0, 6))
    cache.store(c, 0)
    cache.release(b)
    cache.release(c)
    assert cache.use(a, 0)  # 7 is held again, 9 is idle
    assert not cache.make_room(MultiModalItem(1, 0, 5), 9, 2)  # 7 with what was planned before
    assert cache.make_room(MultiModalItem(1, 0, 5), 9, 1)
    assert cache.take_evicted() == [9]


def test_an_item_said_twice_is_held_until_both_are_passed(lab: Any) -> None:
    cache = EncoderCache(10)
    a = viewer(lab, 0, (7, 0, 4), (7, 20, 4))
    cache.store(a, 0)
    assert cache.use(a, 1)
    cache.release_passed(a, 10)
    assert cache.holds(a)
    assert not cache.make_room(MultiModalItem(1, 0, 8), 8, 0)
    cache.release(a)
    assert cache.make_room(MultiModalItem(1, 0, 8), 8, 0)
    assert cache.take_evicted() == [7]


# ---- the rest ----


def test_a_transfer_goes_through_its_stages_only(lab: Any) -> None:
    for path in ((Stage.MOVING, Stage.ARRIVED, Stage.RELEASED), (Stage.RELEASED,)):
        transfer = KVTransfer(sequence(lab))
        for stage in path:
            with pytest.raises(IllegalPlanError, match=f"from {transfer.stage.value} to requested"):
                transfer.advance(Stage.REQUESTED)
            transfer.advance(stage)
        with pytest.raises(IllegalPlanError, match="from released to moving"):
            transfer.advance(Stage.MOVING)
    with pytest.raises(IllegalPlanError, match="from requested to arrived"):
        KVTransfer(sequence(lab)).advance(Stage.ARRIVED)


def test_an_answer_ends_by_whichever_limit_comes_first(lab: Any) -> None:
    for output, cap, longest, last, foreseen in (
        (5, 100, 100, 13, False),
        (5, 3, 100, 11, True),
        (5, 100, 10, 10, True),
        (5, 5, 100, 13, True),
    ):
        request = lab.request(0, 8, max_tokens=cap)
        seq = Sequence(request, output, Chains().chain(request.prompt), longest)
        assert (seq.last_token, seq.ends_by_limit) == (last, foreseen)
    assert repr(seq) == "<Sequence 0 WAITING 0 computed>"
    assert (seq.status, seq.computed_tokens, seq.known_tokens) == (Status.WAITING, 0, 8)


def test_streams_are_their_own_and_repeat() -> None:
    def draws(seed: int, *name: str | int) -> list[int]:
        return Streams(seed).get(*name).integers(1 << 30, size=4).tolist()

    assert draws(1, "arrivals") == draws(1, "arrivals")
    different = [draws(1, "arrivals"), draws(2, "arrivals"), draws(1, "a"), draws(1, "a", 1)]
    assert len({tuple(row) for row in different}) == 4


def test_columns_keep_their_types_and_order() -> None:
    table = Columns({"t": "int64", "name": "str"})
    for row in ((3, "c"), (1, "a"), (2, "b"), (0, "z")):
        table.append(*row)
    assert len(table) == 4
    plain, ordered = table.arrays(), table.arrays(sort_by=0)
    assert plain["name"].tolist() == ["c", "a", "b", "z"]
    assert ordered["name"].tolist() == ["z", "a", "b", "c"]
    assert (ordered["t"].dtype, ordered["name"].dtype) == (np.int64, object)
    table.keep_every_other(1)
    assert table.arrays()["t"].tolist() == [1, 0]
    assert Columns({"t": "int64"}).arrays()["t"].tolist() == []


@FEW
@given(rng=st.randoms(use_true_random=False))
def test_gaps_of_a_leap_are_the_gaps_of_its_steps(rng: Random) -> None:
    by_leap, by_step = GapHistogram(), GapHistogram()
    gaps = []
    for _ in range(rng.randrange(1, 6)):
        first, growth = rng.randrange(10**12), rng.choice((0, 1, 10**7))
        steps, members = rng.randrange(1, 50), rng.randrange(1, 4)
        by_leap.add(first, growth, steps, members)
        for j in range(steps):
            by_step.add(first + j * growth, 0, 1, members)
            gaps += [first + j * growth] * members
    assert by_leap.samples == by_step.samples == len(gaps)
    assert by_leap.counts.tolist() == by_step.counts.tolist()
    assert by_leap.total_ps == by_step.total_ps == sum(gaps)
    assert by_leap.mean_s() == sum(gaps) / len(gaps) / 1e12
    for q in (0.0, 0.5, 0.99):
        exact = max(sorted(gaps)[min(int(q * len(gaps)), len(gaps) - 1)], 1)
        assert by_leap.quantile_s(q) == pytest.approx(exact / 1e12, rel=1e-3)


def test_gaps_are_counted_on_after_a_journey_between_processes() -> None:
    gaps = GapHistogram()
    gaps.add(10**9, 0, 3, 2)
    assert gaps.samples == 6
    gaps = pickle.loads(pickle.dumps(gaps, protocol=5))
    gaps.add(10**10, 0, 1, 1)
    assert gaps.samples == 7


def test_gaps_are_counted_in_batches() -> None:
    gaps = GapHistogram()
    for _ in range(1 << 16):
        gaps.add(10**9, 0, 3, 2)
    assert len(gaps._log) == 0  # it was folded into the bins by itself
    assert gaps.samples == 6 << 16
    assert math.isnan(GapHistogram().quantile_s(0.5))
    assert math.isnan(GapHistogram().mean_s())
