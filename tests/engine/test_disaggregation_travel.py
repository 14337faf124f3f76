"""How KV travels: push and pull, overlap with the prefill, bounds, failures. Nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.disaggregation.base import Travel
from infersim.policies.disaggregation.conditional import Conditional
from infersim.policies.disaggregation.static import StaticSplit
from infersim.policies.errors import InputError
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, LinkConfig
from infersim.sim.state.link import FifoLink

CASES = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
WAYS: list[dict[str, Any]] = [
    {"transfer": transfer, "overlap": overlap}
    for transfer, overlap in (
        ("pull", "none"),
        ("push", "none"),
        ("push", "blocks"),
        ("push", "layers"),
    )
]
named_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))

Make = Callable[[], Any]


def config_of(case: Any, make: Make, *, layers: int = 4, seed: int = 7) -> ClusterConfig:
    """The cluster of a lab's case, split as *make*'s policy does it."""
    config = case.config()
    pools = tuple(replace(pool, layers=layers) for pool in config.pools)
    rng = np.random.default_rng(seed)
    return replace(config, pools=pools, disaggregation=make(), link_rng=rng)


def run(case: Any, make: Make, *, leap: bool = True, layers: int = 4) -> Outcome:
    return simulate(config_of(case, make, layers=layers), case.clients(), leap=leap, check=True)


def random_split(lab: Any, rng: Random) -> tuple[Any, Make]:
    """A case of the lab that is split, and a way for its KV."""
    case = lab.random_case(rng)
    case.decoders = rng.choice((1, 2))
    failure = rng.choice((0.0, 0.0, 0.3, 1.0))
    case.link = replace(case.link, failure=failure, retries=rng.choice((0, 1, 3)))
    way = {**rng.choice(WAYS), "in_flight": rng.choice((0, 0, 1, 2))}
    if rng.random() < 0.4:
        local, waiting = rng.choice((0, 8, 20)), rng.choice((0, 0, 1))
        share = rng.choice((0.0, 0.5))
        return case, lambda: Conditional(
            **way, max_local_tokens=local, max_local_share=share, max_prefill_waiting=waiting
        )
    return case, lambda: StaticSplit(**way)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    case, make = random_split(lab, rng)
    leapt, stepped = (run(case, make, leap=leap) for leap in (True, False))
    assert lab.differing(leapt, stepped) == []


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_every_request_is_answered_once_and_in_full(lab: Any, rng: Random) -> None:
    """As colocated: the same requests end in the same way with the same tokens."""
    case, make = random_split(lab, rng)
    case.arrivals = [(at, what) for at, what in case.arrivals if not isinstance(what, lab.Script)]
    split = run(case, make).requests
    case.decoders = 0
    whole = case.run().requests
    for column in ("request_id", "status", "prompt_tokens", "output_tokens"):
        assert split[column].tolist() == whole[column].tolist()


def test_the_cases_reach_what_they_should(lab: Any) -> None:
    seen = {"moved": 0, "stayed": 0, "failed": 0, "hit": 0, "pushed": 0, "overlapped": 0}
    for seed in range(60):
        case, make = random_split(lab, Random(seed))
        rows, policy = run(case, make).requests, make()
        moved = rows["transfer_bytes"] > 0
        seen["moved"] += int(moved.sum())
        seen["stayed"] += int((~moved & (rows["status"] == "finished")).sum())
        seen["failed"] += int((moved & (rows["remote_tokens"] == 0)).sum())
        seen["hit"] += int((moved & (rows["hit_tokens"] > 0)).sum())
        seen["pushed"] += int(moved.sum()) * (policy.transfer == "push")
        seen["overlapped"] += int(moved.sum()) * (policy.overlap != "none")
    assert all(count > 20 for count in seen.values()), seen


# ---- bytes --------------------------------------------------------------------------------------


@named_way
@pytest.mark.parametrize("size", [1, 16, 40])
def test_bytes_on_the_link_are_the_blocks_that_were_lacking(
    way: dict[str, Any], size: int, lab: Any
) -> None:
    """Whole blocks from the end of the decode replica's own prefix to the end of the prompt."""
    prompts = (1, 15, 16, 17, 100, 333)
    limits = EngineLimits(4000, block_size=size, max_num_batched_tokens=64, max_model_len=500)
    calls = [lab.call(i, prompt, 4) for i, prompt in enumerate(prompts)]
    # once more, when the first time is long over: then the decode replica holds whole blocks
    calls += [lab.call(i, prompt, 4) for i, prompt in enumerate(prompts)]
    arrivals = [(i * 10**9, call) for i, call in enumerate(calls)]
    case = lab.Case(limits, arrivals, decoders=1, kv_bytes_per_token=37)
    outcome = run(case, lambda: StaticSplit(**way), layers=3)

    held = [(prompt - 1) // size * size for prompt in prompts]  # one token is always computed
    lacking = [*prompts, *(prompt - has for prompt, has in zip(prompts, held, strict=True))]
    sizes = [-(-tokens // size) * size * 37 for tokens in lacking]
    assert outcome.requests["transfer_bytes"].tolist() == sizes
    assert outcome.requests["remote_tokens"].tolist() == lacking
    assert outcome.totals["link_bytes"] == sum(sizes)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_bytes_of_requests_are_bytes_of_the_link(lab: Any, rng: Random) -> None:
    case, make = random_split(lab, rng)
    outcome = run(case, make)
    rows, size = outcome.requests, case.limits.block_size
    assert outcome.totals["link_bytes"] == rows["transfer_bytes"].sum()
    if not case.link.failure:
        blocks = -(-rows["remote_tokens"] // size)
        analytic = blocks * size * case.kv_bytes_per_token
        assert rows["transfer_bytes"].tolist() == analytic.tolist()


# ---- overlap ------------------------------------------------------------------------------------

STEP = LinearCost(10_000, 100)  #: 64 tokens take 16,400 ps
PROMPT, CHUNK, BLOCK, LAYERS, BYTES = 300, 64, 16, 8, 1000


def one_prompt(lab: Any, way: dict[str, Any], rate: int, **given: Any) -> Outcome:
    """A prompt of five chunks over a link of *rate* bytes/s without latency."""
    limits = EngineLimits(
        200, BLOCK, max_num_batched_tokens=CHUNK, max_model_len=1000, async_scheduling=False
    )
    case = lab.Case(limits, [(0, lab.call(1, PROMPT, 3))], cost=STEP, decoders=1)
    case.link, case.kv_bytes_per_token = LinkConfig(0, rate), BYTES
    return run(case, lambda: StaticSplit(**way), layers=LAYERS, **given)


def closed_form_ps(overlap: str, rate: int) -> int:
    """When a FIFO link has carried the last part, counted from the end of the prefill."""
    parts: list[tuple[int, int]] = []  # (when it is ready, the bytes of all up to it)
    start = sent = done = 0
    while done < PROMPT:
        tokens = min(CHUNK, PROMPT - done)
        done, took = done + tokens, 10_000 + 100 * tokens
        end = -(-PROMPT // BLOCK) if done == PROMPT else done // BLOCK
        size = (end * BLOCK * BYTES) - sent
        n = {"none": 0, "blocks": 1, "layers": LAYERS}[overlap]
        parts += [(start + took * (i + 1) // n, sent + size * (i + 1) // n) for i in range(n)]
        start, sent = start + took, sent + size
    if overlap == "none":
        parts = [(start, sent)]
    free = before = 0
    for ready, total in parts:
        wire = -(-total * 10**12 // rate) - -(-before * 10**12 // rate)
        free, before = max(free, ready) + wire, total
    return free - start


RATES = [10**12, 10**13, 3 * 10**13, 10**14, 10**15, 10**17]


@pytest.mark.parametrize("rate", RATES)
@named_way
def test_exposed_transfer_is_the_closed_form(way: dict[str, Any], rate: int, lab: Any) -> None:
    for leap in (True, False):
        outcome = one_prompt(lab, way, rate, leap=leap)
        assert outcome.requests["transfer_ps"].tolist() == [closed_form_ps(way["overlap"], rate)]
        assert outcome.totals["link_bytes"] == 19 * BLOCK * BYTES  # 300 tokens lie in 19 blocks


@pytest.mark.parametrize("rate", RATES)
def test_layers_are_never_slower_than_blocks_nor_blocks_than_nothing(rate: int, lab: Any) -> None:
    exposed = [one_prompt(lab, way, rate).requests["transfer_ps"][0] for way in WAYS[1:]]
    assert exposed == sorted(exposed, reverse=True)
    assert exposed[0] == -(-19 * BLOCK * BYTES * 10**12 // rate)


def test_at_high_bandwidth_one_layer_of_the_last_chunk_is_exposed(lab: Any) -> None:
    """The closed form's limit: all layers but the last are over when the prefill ends."""
    rate = 10**15
    exposed = one_prompt(lab, WAYS[3], rate).requests["transfer_ps"][0]
    last_chunk_blocks = 19 - 256 // BLOCK
    layer_ps = last_chunk_blocks * BLOCK * BYTES * 10**12 // rate // LAYERS
    assert exposed == layer_ps
    whole = one_prompt(lab, WAYS[1], rate).requests["transfer_ps"][0]
    assert exposed * 40 < whole


@CASES
@given(
    prompt=st.integers(1, 400),
    budget=st.sampled_from((1, 7, 16, 50, 128)),
    rate=st.sampled_from((10**10, 10**12, 7 * 10**12, 10**14)),
    layers=st.integers(1, 40),
    asynchronous=st.booleans(),
)
def test_one_request_is_never_slower_by_layers(
    lab: Any, prompt: int, budget: int, rate: int, layers: int, asynchronous: bool
) -> None:
    limits = EngineLimits(
        200,
        BLOCK,
        max_num_batched_tokens=budget,
        max_model_len=1000,
        async_scheduling=asynchronous,
    )
    case = lab.Case(limits, [(0, lab.call(1, prompt, 3))], cost=STEP, decoders=1)
    case.link = LinkConfig(900, rate)
    finish = [
        run(case, lambda way=way: StaticSplit(**way), layers=layers).requests["finish_ps"][0]
        for way in WAYS[1:]
    ]
    assert finish == sorted(finish, reverse=True)


@given(parts=st.lists(st.integers(0, 10**6), min_size=1), rate=st.integers(1, 10**14))
def test_the_parts_of_a_message_take_as_long_as_the_whole(parts: list[int], rate: int) -> None:
    whole, cut = FifoLink(5, rate), FifoLink(5, rate)
    before = arrival = 0
    for part in parts:
        arrival, before = cut.send(0, part, before), before + part
    assert arrival == whole.send(0, before)
    assert cut.busy_ps == whole.busy_ps
    assert cut.carried_bytes == before


def test_overlap_needs_blocks_that_stand_ready() -> None:
    with pytest.raises(InputError, match="overlap: layers needs transfer: push"):
        StaticSplit(overlap="layers")
    with pytest.raises(InputError, match="overlap: blocks needs transfer: push"):
        Conditional(overlap="blocks")
    with pytest.raises(InputError, match="in_flight must not be negative, found -1"):
        StaticSplit(in_flight=-1)
    assert StaticSplit().travel == Travel(False, "none", 0)


# ---- who takes memory when ----------------------------------------------------------------------


def busy_decoder(lab: Any, way: dict[str, Any]) -> Outcome:
    """A long answer fills the decode replica while another prompt comes: 30 blocks, 28 taken."""
    limits = EngineLimits(
        30, BLOCK, max_num_batched_tokens=512, max_model_len=480, async_scheduling=False
    )
    first, second = lab.call(1, 200, 240), lab.call(2, 100, 2)
    case = lab.Case(limits, [(0, first), (200 * 10_200, second)], cost=STEP, decoders=1)
    return run(case, lambda: StaticSplit(**way))


def test_push_prefills_when_the_decode_side_has_room_and_pull_at_once(lab: Any) -> None:
    pull, push = busy_decoder(lab, WAYS[0]).requests, busy_decoder(lab, WAYS[1]).requests
    for rows in (pull, push):
        assert rows["status"].tolist() == ["finished"] * 2
        assert rows["first_token_ps"][1] > rows["finish_ps"][0]  # no room before
    # pull: computed at once, and held on the prefill side until there is room
    assert pull["scheduled_ps"][1] == pull["arrival_ps"][1]
    assert pull["transfer_ps"][1] > pull["finish_ps"][0] - pull["arrival_ps"][1] - 10**6
    # push: not computed before the decode side has taken blocks for it
    assert push["scheduled_ps"][1] >= push["finish_ps"][0]
    assert push["transfer_ps"][1] < 10**6


def test_a_prefill_replica_whose_kv_waits_to_be_read_takes_no_more(lab: Any) -> None:
    """Back-pressure: what is computed stays on the prefill side until the decode side has room."""
    limits = EngineLimits(
        30, BLOCK, max_num_batched_tokens=512, max_model_len=480, async_scheduling=False
    )
    calls = [lab.call(1, 200, 240), *(lab.call(i, 200, 2) for i in range(2, 6))]
    case = lab.Case(limits, [(0, calls[0]), *((2_040_000, call) for call in calls[1:])], cost=STEP)
    case.decoders = 1
    rows = run(case, lambda: StaticSplit()).requests
    started, freed = rows["scheduled_ps"], rows["finish_ps"][0]
    assert (started[1:3] < freed).all()  # 13 blocks each: two fit in 30
    assert (started[3:] > freed).all()
    assert rows["status"].tolist() == ["finished"] * 5


@named_way
def test_transfers_are_bounded(way: dict[str, Any], lab: Any, monkeypatch: Any) -> None:
    """Never more than in_flight from taking blocks to arrival, and no fewer while there is work."""
    from infersim.sim.state.split import Splitter

    most: dict[int, int] = {}
    for bound in (0, 1, 3):
        counts = [0]
        taken, received = Splitter.taken, Splitter._received

        def more(self: Any, *args: Any, real: Any = taken, counts: list[int] = counts) -> None:
            counts.append(counts[-1] + 1)
            real(self, *args)

        def fewer(self: Any, *args: Any, real: Any = received, counts: list[int] = counts) -> None:
            counts.append(counts[-1] - 1)
            real(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Splitter, "taken", more)
            patch.setattr(Splitter, "_received", fewer)
            limits = EngineLimits(400, BLOCK, max_num_batched_tokens=512, max_model_len=480)
            arrivals = [(i * 100, lab.call(i, 100 + i, 8)) for i in range(12)]
            case = lab.Case(limits, arrivals, cost=STEP, decoders=1)
            case.link = LinkConfig(100_000, 10**10)
            rows = run(case, lambda bound=bound: StaticSplit(**way, in_flight=bound)).requests
        assert rows["status"].tolist() == ["finished"] * 12
        assert counts[-1] == 0
        most[bound] = max(counts)
    assert most[1] == 1
    assert most[3] == 3
    assert most[0] > 3


# ---- failures -----------------------------------------------------------------------------------


def failing(lab: Any, failure: float, retries: int, way: dict[str, Any], requests: int) -> Outcome:
    limits = EngineLimits(2000, BLOCK, max_num_batched_tokens=512, max_model_len=480)
    arrivals = [(i * 10**8, lab.call(i, 100, 4)) for i in range(requests)]
    case = lab.Case(limits, arrivals, cost=STEP, decoders=1, kv_bytes_per_token=BYTES)
    case.link = LinkConfig(100, 10**14, failure, retries)
    return run(case, lambda: StaticSplit(**way))


@named_way
@pytest.mark.parametrize("retries", [0, 2])
def test_a_transfer_that_always_fails_is_recomputed(
    way: dict[str, Any], retries: int, lab: Any
) -> None:
    rows = failing(lab, 1.0, retries, way, 3).requests
    assert rows["status"].tolist() == ["finished"] * 3
    assert rows["output_tokens"].tolist() == [4] * 3
    assert rows["transfer_bytes"].tolist() == [(1 + retries) * 7 * BLOCK * BYTES] * 3
    assert rows["remote_tokens"].tolist() == [0] * 3
    assert rows["recomputed_tokens"].tolist() == [100] * 3


@named_way
def test_failures_come_as_often_as_said(way: dict[str, Any], lab: Any) -> None:
    """Of 400 transfers with p = 0.3 and one retry 0.09 are given up: 36, deviation 5.7."""
    rows = failing(lab, 0.3, 1, way, 400).requests
    attempts = rows["transfer_bytes"] // (7 * BLOCK * BYTES)
    assert set(attempts.tolist()) == {1, 2}
    assert 93 <= (attempts == 2).sum() <= 147  # 120, deviation 9.2
    assert 19 <= (rows["remote_tokens"] == 0).sum() <= 53
    assert (rows["status"] == "finished").all()


def test_a_link_that_never_fails_draws_nothing(lab: Any) -> None:
    case = lab.random_case(Random(3))
    case.decoders = 1
    config = replace(case.config(), link_rng=None)
    simulate(config, case.clients())
