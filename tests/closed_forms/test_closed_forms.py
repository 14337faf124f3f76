"""The simulator against answers worked out on paper: queues, an agent, a split, a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest

from infersim.policies.disaggregation.static import Colocated, StaticSplit
from infersim.policies.eviction.lru import Lru
from infersim.policies.routing.simple import RoundRobin
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, LinkConfig, PoolConfig
from infersim.sim.state.session import Arrival, Call, Session, Sleep

BLOCK = 16  #: tokens
BYTES = 1000  #: KV bytes a token
LEAPS = pytest.mark.parametrize("leap", [True, False], ids=["leaps", "steps"])


class Clients:
    """A workload from a list of arrivals."""

    resources: ClassVar[dict[str, int]] = {}
    closed_loop = True

    def __init__(self, arrivals: list[Arrival]) -> None:
        self._arrivals = arrivals
        self.expected_requests = len(arrivals)

    def arrivals(self) -> Iterator[Arrival]:
        return iter(self._arrivals)


def open_loop(rows: list[tuple[int, int, int]]) -> Clients:
    """Rows of (arrival_ps, prompt tokens, output tokens); no two prompts share anything."""
    return Clients(
        [
            Arrival(at, Call((Segment(2 * i, 0, prompt),), output, 2 * i + 1, max_tokens=output))
            for i, (at, prompt, output) in enumerate(rows)
        ]
    )


def limits(*, seqs: int = 8, budget: int = 2048, caching: bool = False) -> EngineLimits:
    """A synchronous engine with room for everything."""
    return EngineLimits(
        10_000,
        block_size=BLOCK,
        max_num_batched_tokens=budget,
        max_num_seqs=seqs,
        prefix_caching=caching,
        async_scheduling=False,
    )


def one(engine: EngineLimits, cost: LinearCost) -> ClusterConfig:
    """A single replica."""
    pool = PoolConfig("serve", "both", 1, engine, cost, VllmV1, Lru, BYTES)
    return ClusterConfig((pool,), RoundRobin(), Colocated())


def columns(outcome: Outcome, *names: str) -> list[tuple[int, ...]]:
    """The named columns, a tuple a request."""
    return list(zip(*(outcome.requests[name].tolist() for name in names), strict=True))


# ---- (a) a server and its queue -----------------------------------------------------------------

STEP_PS = 1_000_000
MEAN_TOKENS = 1000
RHO = 0.7
REQUESTS, BATCHES = 20_000, 20
STUDENT_T = 2.093  #: 97.5 % quantile with BATCHES - 1 degrees of freedom


def _fixed(rng: np.random.Generator) -> list[int]:
    return [MEAN_TOKENS] * REQUESTS


def _exponential(rng: np.random.Generator) -> list[int]:
    # Rounding to whole tokens, at least 1, moves both moments by less than 1e-6 of themselves.
    return np.maximum(1, np.rint(rng.exponential(MEAN_TOKENS, REQUESTS))).astype(int).tolist()


# Pollaczek-Khinchine: Wq = rho * E[S^2] / (2 * E[S] * (1 - rho)); E[S^2]/E[S]^2 is 1 for a fixed
# service time (M/D/1) and 2 for an exponential one (M/M/1).
@pytest.mark.parametrize(
    ("service", "second_moment", "seed"),
    [(_fixed, 1, 1), (_exponential, 2, 2)],
    ids=["M/D/1", "M/M/1"],
)
def test_waiting_time_of_one_server(
    service: Callable[[np.random.Generator], list[int]], second_moment: int, seed: int
) -> None:
    """One sequence at a time: a prompt of 1 token, so n tokens out take n steps of STEP_PS."""
    rng = np.random.default_rng(seed)
    service_ps = MEAN_TOKENS * STEP_PS
    at = np.cumsum(rng.exponential(service_ps / RHO, REQUESTS)).astype(np.int64).tolist()
    tokens = service(rng)
    rows = [(when, 1, n) for when, n in zip(at, tokens, strict=True)]
    outcome = simulate(one(limits(seqs=1), LinearCost(STEP_PS)), open_loop(rows))
    waited = outcome.requests["scheduled_ps"] - outcome.requests["arrival_ps"]

    # Lindley: who comes next waits for what is left of the one before, to the picosecond.
    expected = [0]
    for (now, later), n in zip(pairwise(at), tokens, strict=False):
        expected.append(max(0, expected[-1] + n * STEP_PS - (later - now)))
    assert waited.tolist() == expected

    # Batches of 1,000 requests are hundreds of busy periods long, so their means are all but
    # independent where waits of neighbours are not. The first batch also holds the empty start.
    theory = RHO * second_moment * service_ps / (2 * (1 - RHO))
    means = waited.reshape(BATCHES, -1).mean(axis=1)
    half_width = STUDENT_T * means.std(ddof=1) / BATCHES**0.5
    assert half_width < 0.15 * theory  # narrow enough to tell M/D/1 from M/M/1
    assert abs(means.mean() - theory) < half_width


# ---- (b) an agent's rounds ----------------------------------------------------------------------

UNIT, ROUNDS = 160, 10
PER_TOKEN_PS, PER_STEP_PS = 7, 1000


def agent(*, ask_again: bool = False) -> Session:
    """Ten rounds; each sends all that was said, the answers, and what makes it one unit more."""
    said: tuple[Segment, ...] = ()
    tokens = 0
    for turn in range(ROUNDS):
        new = (turn + 1) * UNIT - tokens
        said = (*said, Segment(2 * turn, 0, new))
        answer = 2 * turn + 1
        yield Call(said, 1, answer, max_tokens=1, session=0, turn=turn)
        tokens = (turn + 1) * UNIT
        if turn + 1 < ROUNDS:
            said, tokens = (*said, Segment(answer, 0, 1)), tokens + 1
    if ask_again:
        yield Call(said, 1, 2 * ROUNDS, max_tokens=1, session=0, turn=ROUNDS)


# Round k's prompt is k units: units 1..k-1 as sent before, the answer of 1 token, 159 new tokens.
# Without a cache it is computed whole: 1 + 2 + ... + 10 = 55 units. With one, round k-1 has left
# its prompt of k-1 units (a unit is 10 whole blocks), and not its answer, whose KV nobody needed;
# the match of k-1 units ends before the prompt does, so nothing must be recomputed: 1 unit a round.
@LEAPS
@pytest.mark.parametrize(("caching", "units"), [(False, 55), (True, 10)])
def test_ten_rounds_of_an_agent(caching: bool, units: int, leap: bool) -> None:
    config = one(limits(caching=caching), LinearCost(PER_STEP_PS, PER_TOKEN_PS))
    outcome = simulate(config, Clients([Arrival(0, agent)]), leap=leap)
    assert outcome.requests["prompt_tokens"].tolist() == [k * UNIT for k in range(1, ROUNDS + 1)]
    computed = outcome.requests["prompt_tokens"] - outcome.requests["hit_tokens"]
    assert computed.sum() == units * UNIT
    if caching:
        assert computed.tolist() == [UNIT] * ROUNDS
    # A round is one step (1,600 tokens fit in the budget, and that step samples the answer).
    assert outcome.totals["steps"] == ROUNDS
    assert outcome.totals["busy_ps"] == ROUNDS * PER_STEP_PS + units * UNIT * PER_TOKEN_PS


def test_a_prompt_that_is_cached_whole_computes_its_last_block() -> None:
    """At least one token must be computed to sample from, and only whole blocks are hits."""
    config = one(limits(caching=True), LinearCost(PER_STEP_PS, PER_TOKEN_PS))
    outcome = simulate(config, Clients([Arrival(0, lambda: agent(ask_again=True))]))
    assert columns(outcome, "prompt_tokens", "hit_tokens")[-1] == (1600, 1600 - BLOCK)


# ---- (c) prefill here, decode there -------------------------------------------------------------

PREFILL = LinearCost(1000, 10, 5, 1)
DECODE = LinearCost(700, 90, 3, 2)
PROMPT, OUTPUT = 100, 5
WIRE_PS = 1  #: a link rounds up to whole picoseconds, so even an infinitely fast one takes one


def split() -> ClusterConfig:
    """One replica of each kind and a link on which nothing takes time."""
    engine = limits(caching=True)
    return ClusterConfig(
        (
            PoolConfig("prefill", "prefill", 1, engine, PREFILL, VllmV1, Lru, BYTES),
            PoolConfig("decode", "decode", 1, engine, DECODE, VllmV1, Lru, BYTES),
        ),
        RoundRobin(),
        StaticSplit(),
        LinkConfig(0, 10**30),
    )


def prefill_stage_ps(new: int, cached: int) -> int:
    """One chunk: base + 10 a token + 5 for the sequence + 1 a token of context."""
    return 1000 + 10 * new + 5 + (new + cached)


def decode_stage_ps(prompt: int, tokens: int) -> int:
    """*tokens* steps of one token: the last of the prompt again (context: the prompt), then
    those answered, all but the last: contexts prompt, prompt + 1, … prompt + tokens - 1."""
    return tokens * (700 + 3) + 2 * (tokens * prompt + tokens * (tokens - 1) // 2)


@LEAPS
@pytest.mark.parametrize("requests", [1, 4])
def test_split_is_its_two_stages_one_after_the_other(requests: int, leap: bool) -> None:
    first, second = prefill_stage_ps(PROMPT, 0), decode_stage_ps(PROMPT, OUTPUT)
    assert (first, second) == (2105, 4535)  # 1000 + 1000 + 5 + 100; 5 * 703 + 2 * (500 + 10)
    # Apart by more than the longer stage and less than both: stages overlap, nobody queues.
    apart = 5000
    assert max(first, second) < apart < first + second
    rows = [(i * apart, PROMPT, OUTPUT) for i in range(requests)]
    outcome = simulate(split(), open_loop(rows), leap=leap)

    shown = first + WIRE_PS + decode_stage_ps(PROMPT, 1)  # the prefill's own token is not shown
    names = ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps")
    assert columns(outcome, *names) == [
        (at, at, at + shown, at + first + WIRE_PS + second) for at, _, _ in rows
    ]
    assert outcome.totals["steps"] == requests * (1 + OUTPUT)
    assert outcome.totals["busy_ps"] == requests * (first + second)
    # 100 tokens lie in 7 blocks.
    assert outcome.requests["transfer_bytes"].tolist() == [7 * BLOCK * BYTES] * requests
    assert outcome.totals["link_bytes"] == requests * 7 * BLOCK * BYTES
    assert outcome.requests["transfer_ps"].tolist() == [WIRE_PS] * requests


def conversation() -> Session:
    """Two turns: 100 tokens; then those, the answer of 5 tokens and 55 more."""
    prompt = (Segment(0, 0, PROMPT),)
    yield Call(prompt, OUTPUT, 1, max_tokens=OUTPUT, session=0)
    yield Sleep(10_000)
    prompt = (*prompt, Segment(1, 0, OUTPUT), Segment(2, 0, 55))
    yield Call(prompt, OUTPUT, 3, max_tokens=OUTPUT, session=0, turn=1)


# Turn 1 leaves 100 computed tokens on the prefill side and 104 on the decode side (the last
# answered token was never computed): 6 whole blocks, 96 tokens, on both. Of turn 2's 160 tokens
# 64 are computed in the prefill stage, and their 4 blocks sent; the decode side's 6 are not.
def test_second_turn_sends_only_what_the_decode_side_lacks() -> None:
    outcome = simulate(split(), Clients([Arrival(0, conversation)]))
    sent = [7 * BLOCK * BYTES, 4 * BLOCK * BYTES]
    assert outcome.requests["transfer_bytes"].tolist() == sent
    assert outcome.totals["link_bytes"] == sum(sent)
    end = prefill_stage_ps(100, 0) + WIRE_PS + decode_stage_ps(100, OUTPUT)
    again = end + 10_000
    assert columns(outcome, "arrival_ps", "finish_ps") == [
        (0, end),
        (again, again + prefill_stage_ps(64, 96) + WIRE_PS + decode_stage_ps(160, OUTPUT)),
    ]


# ---- (d) three requests by hand -----------------------------------------------------------------


# 32 tokens a step; a step takes 1000 + 10 a prefill token + 100 a sequence + 1 a context token.
# A: at 0, 40 in, 3 out. B: at 500, 20 in, 2 out. C: at 1500, 35 in, 2 out.
#
#  step  starts  chunks (tokens @ start)       takes                                         ends
#   1        0   A 32@0                        1000 + 320 + 100 +  32             = 1452     1452
#   2     1452   A 8@32, B 20@0 (4 unused)     1000 + 280 + 200 + (40 + 20)       = 1540     2992
#   3     2992   A 1@40, B 1@20, C 30@0        1000 + 300 + 300 + (41 + 21 + 30)  = 1692     4684
#   4     4684   A 1@41, C 5@30                1000 +  50 + 200 + (42 + 35)       = 1327     6011
#   5     6011   C 1@35                        1000 +   0 + 100 +  36             = 1136     7147
#
# C comes during step 2 and waits for step 3, where the two decodes leave it 30 of the 32 tokens.
# A answers at the ends of 2, 3, 4; B of 2, 3; C of 4, 5.
@LEAPS
def test_three_requests_by_hand(leap: bool) -> None:
    config = one(limits(budget=32), LinearCost(1000, 10, 100, 1))
    rows = [(0, 40, 3), (500, 20, 2), (1500, 35, 2)]
    outcome = simulate(config, open_loop(rows), leap=leap, check=True)
    assert columns(outcome, "scheduled_ps", "first_token_ps", "finish_ps") == [
        (0, 2992, 6011),
        (1452, 2992, 4684),
        (2992, 6011, 7147),
    ]
    assert outcome.totals["steps"] == 5
    assert outcome.totals["busy_ps"] == outcome.totals["simulated_ps"] == 7147
    # Gaps: A 1692 and 1327, B 1692, C 1136.
    assert (outcome.itl.samples, outcome.itl.total_ps) == (4, 5847)
