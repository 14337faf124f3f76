"""workflow-aware: traces worked by hand on both indexes, its definition, and lru without hints."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.policies.eviction.lru import Lru
from infersim.policies.eviction.workflow_aware import WorkflowAware
from infersim.policies.types import PS_PER_S, Request, Segment, WorkflowHint
from infersim.scenarios.cache.replay import ReplayCache
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.kv.radix_pool import RadixPool
from infersim.sim.state.sequence import Sequence

SIZE = 4  #: tokens in a block
Pool = BlockPool | RadixPool
POOLS: dict[str, type[Pool]] = {"hash-chain": BlockPool, "radix": RadixPool}


class Lab:
    """Serves one request after the other: each is admitted, computed and ended."""

    def __init__(self, make: type[Pool], blocks: int, eviction: Any = None) -> None:
        self.chains = Chains()
        self.eviction = WorkflowAware() if eviction is None else eviction
        self.pool = make(blocks, SIZE, self.eviction)
        self.served = 0

    def sequence(self, prompt: tuple[Segment, ...], hint: WorkflowHint | None = None) -> Sequence:
        length = sum(part.tokens for part in prompt)
        request = Request(self.served, 0, prompt, length, 1, 10**6 + self.served, workflow=hint)
        return Sequence(request, 1, self.chains.chain(prompt), 10**6)

    def serve(self, prompt: tuple[Segment, ...], hint: WorkflowHint | None = None) -> int:
        """How many blocks hit."""
        seq = self.sequence(prompt, hint)
        self.served += 1
        hit = self.pool.visit(seq, seq.known)
        self.pool.acquire(seq, hit, -(-seq.known // SIZE))
        self.pool.commit(seq, seq.known)
        self.pool.checkpoint(seq, seq.known)
        self.pool.release(seq)
        self.pool.check()
        return hit.blocks

    def call(
        self, agent: str, fresh: int, steps: dict[str, int], *, run: int = 0, fixed: int = 2
    ) -> int:
        """Agent's fixed prompt of *fixed* blocks, one block of its own, and what is told."""
        prompt = (Segment(ord(agent), 0, fixed * SIZE), Segment(1000 + fresh, 0, SIZE))
        hint = WorkflowHint(run, agent, fixed * SIZE, tuple(steps.items()))
        return self.serve(prompt, hint)

    def cached(self, agent: str, fixed: int = 2) -> int:
        """Blocks of the agent's fixed prompt that are there."""
        seq = self.sequence((Segment(ord(agent), 0, fixed * SIZE),))
        return self.pool.match(seq, seq.known).blocks


@pytest.fixture(params=POOLS)
def make(request: pytest.FixtureRequest) -> type[Pool]:
    return POOLS[request.param]


def test_a_cycle_of_three_agents_in_the_room_of_two(make: type[Pool]) -> None:
    """6 blocks: each call takes 3, of which the next call of its agent begins with 2.

    Under lru each call evicts whom the next one needs, so nothing ever hits. Here the first call
    of C takes the used-up blocks of A's and B's calls and then, of A (2 steps away) and B (3),
    one of B's: on a tree its whole leaf. So A's second call finds both of its blocks, B's one
    (on a tree none), and C's two: B took the used-up block of A's call and then one of A's.
    """
    cycle = [("A", {"B": 1, "C": 2, "A": 3}), ("B", {"C": 1, "A": 2, "B": 3})]
    cycle.append(("C", {"A": 1, "B": 2, "C": 3}))
    lab = Lab(make, 6)
    hits = [lab.call(agent, n, steps) for n, (agent, steps) in enumerate(cycle * 2)]
    assert hits == [0, 0, 0, 2, 1 if make is BlockPool else 0, 2]
    plain = Lab(make, 6, Lru())
    assert [plain.call(agent, n, {}) for n, (agent, _) in enumerate(cycle * 2)] == [0] * 6


def test_what_no_call_begins_with_leaves_first(make: type[Pool]) -> None:
    lab = Lab(make, 9)
    lab.call("A", 0, {"A": 9})  # 3 blocks, the last one used up
    lab.serve((Segment(7, 0, 2 * SIZE),))  # nobody's
    lab.call("B", 1, {"A": 8, "B": 1})
    lab.serve((Segment(8, 0, 4 * SIZE),))  # 1 is blank; A's and B's own and one of nobody's go
    assert (lab.cached("A"), lab.cached("B")) == (2, 2)
    lab.serve((Segment(9, 0, 5 * SIZE),))  # takes all that is nobody's
    assert (lab.cached("A"), lab.cached("B")) == (2, 2)
    lab.serve((Segment(10, 0, 7 * SIZE),))  # and now whoever runs last
    assert (lab.cached("A"), lab.cached("B")) == (0, 2)


def test_the_nearest_run_in_any_workflow_counts(make: type[Pool]) -> None:
    lab = Lab(make, 6)
    lab.call("A", 0, {"A": 5, "B": 1}, run=0)
    lab.call("B", 1, {"A": 4, "B": 6}, run=0)
    lab.call("B", 2, {"B": 3}, run=1)  # the second workflow needs B in three steps
    assert (lab.cached("A"), lab.cached("B")) == (2, 2)
    lab.serve((Segment(9, 0, 4 * SIZE),))
    assert (lab.cached("A"), lab.cached("B")) == (0, 2)


def test_a_finished_workflow_keeps_nothing(make: type[Pool]) -> None:
    lab = Lab(make, 7)
    lab.call("A", 0, {"A": 1}, run=0)
    lab.call("B", 1, {"B": 7}, run=1)
    lab.call("A", 2, {}, run=0)  # the last call: A is nobody's any more
    lab.serve((Segment(9, 0, 5 * SIZE),))
    assert (lab.cached("A"), lab.cached("B")) == (0, 2)


def test_a_late_hint_does_not_undo_a_newer_one() -> None:
    policy = WorkflowAware()
    late = Request(3, 0, (), 0, 0, 0, workflow=WorkflowHint(0, "A", 8, (("A", 1),)))
    last = Request(4, 0, (), 0, 0, 0, workflow=WorkflowHint(0, "B", 8, ()))
    lab = Lab(BlockPool, 4)
    unit = lab.pool._cached  # type: ignore[union-attr]
    lab.call("A", 0, {})
    block = unit(1)
    policy.on_insert(block, last)
    policy.on_hit(block, late)
    assert policy._said[0][0] == 4
    assert policy._said[0][2] == {}


def test_a_silent_workflow_is_forgotten(make: type[Pool]) -> None:
    lab = Lab(make, 6, WorkflowAware(forget_s=10.0))
    lab.call("A", 0, {"A": 1}, run=0)
    lab.pool.now = 20 * PS_PER_S
    lab.call("B", 1, {"B": 5}, run=1)
    lab.serve((Segment(9, 0, 4 * SIZE),))
    assert (lab.cached("A"), lab.cached("B")) == (0, 2)


@pytest.mark.parametrize("agents", ["AB", "BA"])
def test_a_shared_beginning_is_as_near_as_its_nearest_agent(make: type[Pool], agents: str) -> None:
    """Both agents begin with the same block; one runs next, the other never again."""
    lab = Lab(make, 7)
    opening, size = Segment(5, 0, SIZE), 2 * SIZE
    for n, agent in enumerate(agents):
        prompt = (opening, Segment(ord(agent), 0, SIZE), Segment(1000 + n, 0, SIZE))
        lab.serve(prompt, WorkflowHint(0, agent, size, (("A", 1),)))
    lab.serve((Segment(9, 0, 5 * SIZE),))  # 2 blank, 2 used up, and B's own block
    match = lab.pool.match
    for agent, left in (("A", 2), ("B", 1)):
        seq = lab.sequence((opening, Segment(ord(agent), 0, SIZE)))
        assert match(seq, seq.known).blocks == left


class Turn(NamedTuple):
    """One request: which agent (None: a client that says nothing), in which workflow."""

    agent: int | None
    run: int
    fresh: int
    steps: tuple[tuple[str, int], ...]
    gap_s: int


turns = st.lists(
    st.builds(
        Turn,
        st.one_of(st.none(), st.integers(0, 3)),
        st.integers(0, 2),
        st.integers(0, 3),
        st.dictionaries(st.sampled_from("0123"), st.integers(0, 3)).map(lambda d: tuple(d.items())),
        st.integers(0, 3),
    ),
    max_size=40,
)


def prompt_of(turn: Turn) -> tuple[tuple[Segment, ...], WorkflowHint | None]:
    """A block all share, one or two of the agent's, up to three of the turn's own."""
    parts = [Segment(0, 0, SIZE)]
    hint = None
    if turn.agent is not None:
        own = SIZE * (1 + turn.agent % 2)
        parts.append(Segment(1 + turn.agent, 0, own))
        hint = WorkflowHint(turn.run, str(turn.agent), SIZE + own, turn.steps)
    if turn.fresh:
        parts.append(Segment(10 + turn.fresh, 0, SIZE * turn.fresh))
    return tuple(parts), hint


@settings(deadline=None, max_examples=60)
@given(turns=turns, blocks=st.integers(6, 14))
def test_without_hints_it_is_lru(turns: list[Turn], blocks: int) -> None:
    for make in POOLS.values():
        aware, plain = Lab(make, blocks), Lab(make, blocks, Lru())
        for turn in turns:
            prompt, _ = prompt_of(turn)
            assert aware.serve(prompt) == plain.serve(prompt)
        assert aware.pool.evicted == plain.pool.evicted


@settings(deadline=None, max_examples=60)
@given(turns=turns, blocks=st.integers(6, 14))
def test_what_is_cached_is_always_whole_prefixes(turns: list[Turn], blocks: int) -> None:
    """The promise tail first: a block never leaves before one that stands behind it."""
    lab = Lab(BlockPool, blocks)
    pool = lab.pool
    assert isinstance(pool, BlockPool)
    before: dict[int, int] = {}
    for turn in turns:
        prompt, hint = prompt_of(turn)
        keys = lab.sequence(prompt).chain.block_keys(0, 99, SIZE)[: len(prompt) * 9]
        lab.serve(prompt, hint)
        before.update(zip(keys[1:], keys, strict=False))
        for key in pool._index:
            assert key not in before or before[key] in pool._index


class Defined:
    """The definition: a list of blocks, each with who begins with it, searched for the furthest."""

    def __init__(self, capacity: int, forget_s: float) -> None:
        self.capacity, self.forget_s = capacity, forget_s
        self.cached: dict[int, tuple[set[str], int]] = {}  # block -> agents, last reference
        self.said: dict[int, tuple[float, dict[str, int]]] = {}
        self.references = 0

    def serve(self, now_s: int, blocks: list[int], hint: WorkflowHint | None) -> int:
        hits, whole = 0, True
        for position, block in enumerate(blocks):
            known = block in self.cached
            if known and not whole:
                continue
            whole = whole and known
            hits += whole
            if not known and len(self.cached) == self.capacity:
                self.evict(now_s)
            self.references += 1
            agents = self.cached[block][0] if known else set()
            if hint is not None:
                self.said[hint.workflow] = (now_s, dict(hint.steps))
                if (position + 1) * SIZE <= hint.fixed_tokens:
                    agents = agents | {hint.agent}
            self.cached[block] = (agents, self.references)
        return hits

    def evict(self, now_s: int) -> None:
        live = [steps for at, steps in self.said.values() if at >= now_s - self.forget_s]

        def rank(block: int) -> tuple[float, int]:
            agents, reference = self.cached[block]
            near = (steps[agent] for steps in live for agent in agents if agent in steps)
            return (-min(near, default=inf), reference)

        del self.cached[min(self.cached, key=rank)]


@settings(deadline=None, max_examples=120)
@given(turns=turns, capacity=st.integers(3, 12))
def test_it_evicts_by_its_definition(turns: list[Turn], capacity: int) -> None:
    forget_s = 1000.0
    cache = ReplayCache(capacity, WorkflowAware(forget_s=forget_s), SIZE)
    defined = Defined(capacity, forget_s)
    names: dict[tuple[Any, ...], int] = {}
    now_s = 0
    for number, turn in enumerate(turns):
        now_s += turn.gap_s
        prompt, hint = prompt_of(turn)
        texts = [(part.content, at) for part in prompt for at in range(part.tokens // SIZE)]
        blocks = [names.setdefault(tuple(texts[: i + 1]), len(names)) for i in range(len(texts))]
        request = Request(number, now_s * PS_PER_S, (), 0, 0, 0, workflow=hint)
        assert cache.serve(request, blocks) == defined.serve(now_s, blocks, hint)
        assert {block for block in defined.cached if block not in cache} == set()


@pytest.mark.parametrize("value", [0, -1.0, inf, True, "5"])
def test_a_wrong_parameter_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="forget_s of workflow-aware"):
        WorkflowAware(forget_s=value)


def test_sets_of_agents_that_own_nothing_are_forgotten(make: type[Pool]) -> None:
    """Frontends that name an agent anew for each workflow do not fill the policy."""
    lab = Lab(make, 12)
    for n in range(40):
        lab.call(chr(200 + n), n, {}, run=n)
    assert len(lab.eviction._owners.sets) < 8
    assert len(lab.eviction._owners._units) <= 12
