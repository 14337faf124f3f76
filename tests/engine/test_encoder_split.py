"""Images on encoders of their own: bytes, times, batches, room, failures. Nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.disaggregation.conditional import Conditional
from infersim.policies.disaggregation.encoder import EncoderSplit
from infersim.policies.disaggregation.static import Colocated, StaticSplit
from infersim.policies.disaggregation.switching import RoleSwitching
from infersim.policies.errors import InputError
from infersim.policies.types import MultiModalItem, Segment
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, LinkConfig
from infersim.sim.state.encoding import EncoderReplica, Image
from infersim.sim.state.session import Call

CASES = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
EMBEDDING = 14  #: bytes of a token


@dataclass(frozen=True)
class Seeing(LinearCost):
    """A linear cost with a price for images."""

    per_image_token_ps: int = 0

    def duration_ps(self, shape: StepShape) -> int:
        return LinearCost.duration_ps(self, shape) + self.per_image_token_ps * sum(shape.images)


COST = Seeing(10**6, 10**4, per_image_token_ps=3 * 10**4)
LIMITS = EngineLimits(4000, max_num_batched_tokens=1024, max_model_len=4000, async_scheduling=False)


def call(number: int, *images: tuple[int, int], text: int = 20, output: int = 3) -> Call:
    """A prompt of images, each (content, tokens), and a text of its own."""
    items, prompt, at = [], [], 0
    for content, tokens in images:
        items.append(MultiModalItem(content, at, tokens))
        prompt.append(Segment(content, 0, tokens, "image"))
        at += tokens
    prompt.append(Segment(10_000 + number, 0, text, "user"))
    return Call(tuple(prompt), output, 20_000 + number, items=tuple(items))


def config_of(
    case: Any,
    policy: Any,
    encoders: int,
    *,
    link: LinkConfig | None = None,
    limits: EngineLimits | None = None,
) -> ClusterConfig:
    """The cluster of a lab's case and *encoders* encoders, whose engine has *limits*."""
    config = case.config()
    pools = tuple(replace(pool, embedding_bytes_per_token=EMBEDDING) for pool in config.pools)
    serving = limits or case.limits
    encode = replace(pools[0], name="e", role="encode", replicas=encoders, limits=serving, ranks=1)
    return replace(
        config,
        pools=(encode, *pools),
        disaggregation=policy,
        embedding_link=link or LinkConfig(500, 10**13),
        embedding_rng=np.random.default_rng(5),
    )


def run(
    lab: Any,
    calls: list[tuple[int, Call]],
    *,
    encoders: int = 1,
    policy: Any = None,
    leap: bool = True,
    link: LinkConfig | None = None,
    serving: EngineLimits = LIMITS,
    limits: EngineLimits = LIMITS,
    **given: Any,
) -> Outcome:
    case = lab.Case(serving, list(calls), cost=COST, **given)
    config = config_of(case, policy or EncoderSplit(), encoders, link=link, limits=limits)
    return simulate(config, case.clients(), leap=leap, check=True)


# ---- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("tokens", [1, 100, 1000, 3000])
def test_alone_it_takes_encoding_then_transfer_then_prefill(
    tokens: int, leap: bool, lab: Any
) -> None:
    rate, latency = 10**12, 700
    outcome = run(
        lab, [(0, call(0, (5, tokens), output=1))], link=LinkConfig(latency, rate), leap=leap
    )
    encode = 10**6 + 3 * 10**4 * tokens
    transfer = latency + tokens * EMBEDDING * 10**12 // rate
    chunks = -(-(tokens + 20) // 1024)
    prefill = chunks * 10**6 + 10**4 * (tokens + 20)
    rows = outcome.requests
    assert rows["encode_ps"].tolist() == [encode + transfer]
    assert rows["first_token_ps"].tolist() == [encode + transfer + prefill]
    assert rows["embedding_bytes"].tolist() == [tokens * EMBEDDING]
    assert outcome.totals["embedding_link_bytes"] == tokens * EMBEDDING


def test_images_of_a_request_are_spread_or_not(lab: Any) -> None:
    """Three images on three encoders are there when the link has carried them one by one."""
    images = [(i, 300) for i in range(3)]
    one, wire = 10**6 + 300 * 3 * 10**4, 300 * EMBEDDING  # 1 ps a byte
    link = LinkConfig(0, 10**12)
    spread = run(lab, [(0, call(0, *images))], encoders=3, link=link)
    assert spread.requests["encode_ps"].tolist() == [one + 3 * wire]
    whole = run(
        lab, [(0, call(0, *images))], encoders=3, link=link, policy=EncoderSplit(spread=False)
    )
    assert whole.requests["encode_ps"].tolist() == [10**6 + 900 * 3 * 10**4 + 3 * wire]


def test_prefill_and_decode_may_be_split_as_well(lab: Any) -> None:
    for way in ({}, {"transfer": "push", "overlap": "blocks"}):
        outcome = run(lab, [(0, call(0, (5, 300)))], policy=EncoderSplit(**way), decoders=1)
        rows = outcome.requests
        assert rows["encode_ps"].tolist() == [10**6 + 300 * 3 * 10**4 + 500 + 420]
        assert rows["transfer_bytes"].tolist() == [320 * 3]  # 20 blocks of 16
        assert rows["prefill_replica"].tolist() == [0]
        assert rows["replica"].tolist() == [1]
        assert rows["scheduled_ps"].tolist() == rows["encode_ps"].tolist()


def test_short_prompts_may_stay_where_they_decode(lab: Any) -> None:
    """Their embeddings go there; those of long prompts go to the prefill replica."""
    calls = [(0, call(0, (5, 100))), (10**12, call(1, (6, 300)))]
    policy = EncoderSplit(prompts=Conditional(max_local_tokens=200))
    rows = run(lab, calls, policy=policy, decoders=1).requests
    assert rows["prefill_replica"].tolist() == [1, 0]
    assert rows["replica"].tolist() == [1, 1]
    assert (rows["transfer_bytes"] > 0).tolist() == [False, True]
    assert rows["embedding_bytes"].tolist() == [100 * EMBEDDING, 300 * EMBEDDING]


def test_with_prompts_placed_as_by_default_nothing_changes(lab: Any) -> None:
    calls = [(i * 10**6, call(i, (i % 7, 100 + i % 5))) for i in range(40)]
    for decoders, prompts in ((0, Colocated()), (2, StaticSplit())):
        own, other = (
            run(lab, calls, policy=EncoderSplit(prompts=one), decoders=decoders, encoders=2)
            for one in (None, prompts)
        )
        assert lab.differing(own, other) == []


def test_text_never_meets_an_encoder(lab: Any) -> None:
    calls = [(i * 10**6, call(i)) for i in range(20)]
    with_encoders = run(lab, calls)
    without = lab.Case(LIMITS, list(calls), cost=COST).run()
    for name, column in without.requests.items():
        assert with_encoders.requests[name].tolist() == column.tolist()
    assert with_encoders.totals["embedding_link_bytes"] == 0


# ---- batches ------------------------------------------------------------------------------------


def test_a_step_takes_images_in_order_up_to_its_budget(lab: Any) -> None:
    """Budget 1,000: 400 and 500, then 300 (which the 900 do not leave room for) with 600."""
    limits = replace(LIMITS, encoder_budget=1000)
    sizes = (400, 500, 300, 600, 2000, 10)
    calls = [(0, call(i, (i, size))) for i, size in enumerate(sizes)]
    link = LinkConfig(0, 10**18)
    rows = run(lab, calls, limits=limits, link=link).requests
    ends, now = [], 0
    for step in ((400, 500), (300, 600), (2000,), (10,)):  # one is taken however large it is
        now += 10**6 + 3 * 10**4 * sum(step)
        ends += [now] * len(step)
    late = rows["encode_ps"] - np.array(ends)
    assert ((late >= 0) & (late < 100)).all()  # the link's few picoseconds


def test_equal_images_are_encoded_once(lab: Any) -> None:
    """In one step, later from the encoder's cache, and not even sent where the prompt's has it."""
    twice = call(0, (5, 300), (5, 300))
    outcome = run(lab, [(0, twice)])
    assert outcome.totals["encoded_tokens"] == 300
    assert outcome.totals["embedding_link_bytes"] == 300 * EMBEDDING
    later = run(lab, [(0, call(0, (5, 300))), (10**12, call(1, (5, 300)))])
    assert later.requests["embedding_bytes"].tolist() == [300 * EMBEDDING, 0]
    # two replicas serve prompts: the second fetches what the encoder still has
    apart = run(lab, [(0, call(0, (5, 300))), (10**12, call(1, (5, 300)))], replicas=2)
    assert apart.totals["encoded_tokens"] == 300
    assert apart.totals["encoder_hit_tokens"] == 300
    assert apart.requests["embedding_bytes"].tolist() == [300 * EMBEDDING] * 2
    assert apart.requests["encode_ps"].tolist()[1] == 500 + 300 * EMBEDDING // 10
    together = run(lab, [(0, call(i, (5, 300))) for i in range(2)], replicas=2)
    assert together.totals["encoded_tokens"] == together.totals["encoder_hit_tokens"] == 300


def test_an_encoder_forgets_what_its_cache_has_no_room_for(lab: Any) -> None:
    limits = replace(LIMITS, encoder_cache_size=500)
    order = (1, 2, 1)
    calls = [(i * 10**12, call(i, (content, 300))) for i, content in enumerate(order)]
    kept = run(lab, calls, replicas=3)
    forgot = run(lab, calls, replicas=3, limits=limits)
    assert kept.totals["encoded_tokens"] == 600
    assert forgot.totals["encoded_tokens"] == 900


def test_an_image_whose_kv_is_there_is_not_encoded(lab: Any) -> None:
    same = call(0, (5, 320), text=40)
    outcome = run(lab, [(0, same), (10**12, same)])
    assert outcome.requests["embedding_bytes"].tolist() == [320 * EMBEDDING, 0]
    assert outcome.totals["encoder_hit_tokens"] == 0


# ---- where it is worth the way ------------------------------------------------------------------


def test_few_image_tokens_stay(lab: Any) -> None:
    calls = [(0, call(0, (1, 100))), (10**12, call(1, (2, 101)))]
    rows = run(lab, calls, policy=EncoderSplit(max_local_tokens=100)).requests
    assert rows["embedding_bytes"].tolist() == [0, 101 * EMBEDDING]
    # as it is without encoders
    assert rows["first_token_ps"][0] == 2 * 10**6 - 10**6 + 100 * 3 * 10**4 + 120 * 10**4


def test_all_local_is_colocated_to_the_byte(lab: Any) -> None:
    calls = [(i * 3 * 10**6, call(i, (i % 7, 200), output=9)) for i in range(40)]
    local = run(lab, calls, policy=EncoderSplit(max_local_tokens=10**6)).requests
    case = lab.Case(LIMITS, list(calls), cost=COST)
    whole = simulate(replace(case.config(), disaggregation=Colocated()), case.clients()).requests
    assert all(local[name].tolist() == whole[name].tolist() for name in whole)


def test_while_encoders_are_behind_images_stay(lab: Any) -> None:
    limits = replace(LIMITS, encoder_budget=1)
    calls = [(0, call(i, (i, 100))) for i in range(6)]
    outcome = run(lab, calls, policy=EncoderSplit(max_encode_waiting=3), limits=limits)
    # the first three join an empty line; the encoder looks when all of this instant has arrived
    assert (outcome.requests["embedding_bytes"] > 0).tolist() == [True] * 3 + [False] * 3


# ---- room ---------------------------------------------------------------------------------------


def test_embeddings_wait_for_room_where_the_prompt_is_computed(lab: Any) -> None:
    """Room for one request's embeddings: the next set out when the prompt before is computed."""
    serving = replace(LIMITS, encoder_cache_size=300)
    calls = [(0, call(i, (i, 300), text=500)) for i in range(4)]
    rows = run(lab, calls, serving=serving).requests
    assert (rows["encode_ps"][1:] > rows["first_token_ps"][:-1]).all()
    assert (rows["status"] == "finished").all()
    free = run(lab, calls).requests
    assert (free["encode_ps"][1:] < rows["encode_ps"][1:]).all()


def test_an_encoder_without_room_stops(lab: Any) -> None:
    """Outputs stay until they were sent; nobody overtakes an image that finds no room."""
    encoder = EncoderReplica(1000, 500)
    items = tuple(MultiModalItem(i, 0, tokens) for i, tokens in enumerate((300, 300, 100)))
    flow = SimpleNamespace(id=0, request=lab.request(0, 700, items=items))
    images = [Image(flow, index) for index in range(3)]
    for image in images:
        encoder.submit(image)
    assert encoder.schedule() == []
    assert encoder.shape == (300,)
    assert encoder.finish() == images[:1]
    assert encoder.schedule() == []
    assert encoder.shape == ()  # the third would fit
    encoder.cache.let_go(flow, 0)
    assert encoder.schedule() == []
    assert encoder.shape == (300, 100)
    assert encoder.finish() == images[1:]
    assert encoder.cache.held_tokens == 400


def test_what_can_never_be_there_together_is_encoded_with_its_prompt(lab: Any) -> None:
    serving = replace(LIMITS, encoder_cache_size=500)
    calls = [(0, call(0, (1, 300), (2, 300))), (10**12, call(1, (3, 300)))]
    rows = run(lab, calls, serving=serving).requests
    assert rows["embedding_bytes"].tolist() == [0, 300 * EMBEDDING]
    small = replace(LIMITS, encoder_cache_size=200)
    assert run(lab, calls, limits=small).requests["embedding_bytes"].tolist() == [0, 0]


# ---- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 2])
def test_what_never_arrives_is_encoded_with_its_prompt(retries: int, lab: Any) -> None:
    link = LinkConfig(500, 10**13, 1.0, retries)
    outcome = run(lab, [(0, call(0, (5, 300), output=1))], link=link)
    rows, tries = outcome.requests, 1 + retries
    encode = 10**6 + 300 * 3 * 10**4
    assert rows["embedding_bytes"].tolist() == [tries * 300 * EMBEDDING]
    assert rows["encode_ps"].tolist() == [encode + tries * (500 + 420)]
    prefill = 10**6 + 320 * 10**4 + 300 * 3 * 10**4
    assert rows["first_token_ps"].tolist() == [encode + tries * 920 + prefill]
    assert outcome.totals["failed_embeddings"] == tries


def test_failures_come_as_often_as_said(lab: Any) -> None:
    """Of 400 transfers with p = 0.3 and one retry 120 are sent twice (deviation 9.2)."""
    calls = [(i * 10**9, call(i, (i, 10))) for i in range(400)]
    outcome = run(lab, calls, link=LinkConfig(0, 10**13, 0.3, 1))
    sent = outcome.requests["embedding_bytes"] // (10 * EMBEDDING)
    assert set(sent.tolist()) == {1, 2}
    assert 93 <= (sent == 2).sum() <= 147
    assert outcome.totals["failed_embeddings"] >= (sent == 2).sum()


# ---- random cases -------------------------------------------------------------------------------


def random_encoding(lab: Any, rng: Random) -> tuple[Any, Any, int, LinkConfig, EngineLimits]:
    """A case of the lab, but calls with images; its policy, encoders, their link and limits."""
    case = lab.random_case(rng)
    case.decoders, case.ranks = rng.choice((0, 0, 1, 2)), 1
    sizes = rng.choice(((3,), (3, 5), (2, 3, 8)))
    case.limits = replace(
        case.limits, encoder_budget=0, encoder_cache_size=rng.choice((0, 8, 9, 20))
    )
    case.scheduler.pop("chunked_prefill", None)  # uncut, a prompt may need more than the cache has
    case.cost = Seeing(10**11, 10**9, 5 * 10**8, 10**8, per_image_token_ps=10**10)

    def seeing(number: int) -> Call:
        images, left = [], case.limits.max_model_len - 3
        while left > max(sizes) and len(images) < 4 and rng.random() < 0.8:
            content = rng.randrange(6)
            images.append((content, sizes[content % len(sizes)]))
            left -= images[-1][1]
        text = rng.randrange(1, min(left, 20) + 1)
        return call(number, *images, text=text, output=rng.choice((1, 2, 9)))

    times = [at for at, _ in case.arrivals for _ in range(rng.choice((1, 2, 3)))]
    case.arrivals = [(at, seeing(number)) for number, at in enumerate(times)]
    way = rng.choice(({}, {"transfer": "push"})) if case.decoders else {}
    params = {
        **way,
        "spread": rng.random() < 0.7,
        "max_local_tokens": rng.choice((0, 0, 4)),
        "max_encode_waiting": rng.choice((0, 0, 2)),
    }
    link = LinkConfig(
        rng.choice((0, 10**11)),
        rng.choice((10, 10**4)),
        rng.choice((0.0, 0.0, 0.4)),
        rng.choice((0, 2)),
    )
    limits = replace(
        case.limits,
        encoder_budget=rng.choice((1, 6, 100)),
        encoder_cache_size=rng.choice((0, 8, 20)),
    )
    encoders = rng.choice((1, 2, 3))
    prompts = rng.choice((None, conditional, switching)) if case.decoders else None
    if prompts is None:
        return case, lambda: EncoderSplit(**params), encoders, link, limits
    if prompts is switching:
        case.replicas = case.decoders = 2
    travel = {key: params.pop(key) for key in way}
    return case, lambda: EncoderSplit(**params, prompts=prompts(**travel)), encoders, link, limits


def conditional(**travel: Any) -> Conditional:
    return Conditional(**travel, max_local_tokens=16)


def switching(**travel: Any) -> RoleSwitching:
    return RoleSwitching(**travel, prefill_queue=0.5, decode_queue=0.5, pause_s=0)


def play(made: tuple[Any, Any, int, LinkConfig, EngineLimits], *, leap: bool = True) -> Outcome:
    case, make, encoders, link, limits = made
    config = config_of(case, make(), encoders, link=link, limits=limits)
    return simulate(config, case.clients(), leap=leap, check=True)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    made = random_encoding(lab, rng)
    assert lab.differing(*(play(made, leap=leap) for leap in (True, False))) == []


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_every_request_is_answered_once_and_in_full(lab: Any, rng: Random) -> None:
    """As without encoders; nothing stays held in any cache (the run checks its books)."""
    made = random_encoding(lab, rng)
    case = made[0]
    split = play(made).requests
    case.decoders = 0
    case.limits = replace(case.limits, encoder_cache_size=0)
    whole = case.run().requests
    for column in ("request_id", "status", "prompt_tokens", "output_tokens"):
        assert split[column].tolist() == whole[column].tolist()


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_bytes_of_requests_are_bytes_of_the_link(lab: Any, rng: Random) -> None:
    made = random_encoding(lab, rng)
    outcome = play(made)
    rows, totals = outcome.requests, outcome.totals
    assert totals["embedding_link_bytes"] == rows["embedding_bytes"].sum()
    assert ((rows["embedding_bytes"] == 0) | (rows["encode_ps"] > 0)).all()
    assert (rows["embedding_bytes"] % EMBEDDING == 0).all()
    if not made[3].failure:
        tokens = totals["encoded_tokens"] + totals["encoder_hit_tokens"]
        assert totals["embedding_link_bytes"] <= tokens * EMBEDDING


def test_the_cases_reach_what_they_should(lab: Any) -> None:
    seen = {"sent": 0, "stayed": 0, "failed": 0, "hit": 0, "split": 0, "waited": 0}
    seen |= {"conditional": 0, "both ways": 0, "switched": 0}
    for seed in range(60):
        made = random_encoding(lab, Random(seed))
        outcome = play(made)
        sent = outcome.requests["embedding_bytes"] > 0
        seen["sent"] += int(sent.sum())
        seen["stayed"] += int((~sent).sum())
        seen["failed"] += outcome.totals.get("failed_embeddings", 0)
        seen["hit"] += outcome.totals["encoder_hit_tokens"]
        seen["split"] += int(sent.sum()) * bool(made[0].decoders)
        rows = outcome.requests
        if isinstance(made[1]().prompts, Conditional):
            local = rows["prefill_replica"] == rows["replica"]
            seen["conditional"] += int((sent & local).sum())
            seen["both ways"] += int((sent & ~local).sum())
        seen["switched"] += outcome.totals.get("role_switches", 0)
        seen["waited"] += int(sent.sum()) * (0 < made[0].limits.encoder_cache_size < 10)
    assert all(count > 20 for count in seen.values()), seen


# ---- what is refused ----------------------------------------------------------------------------


def test_what_is_refused(lab: Any) -> None:
    with pytest.raises(InputError, match="must not be negative, found -1 and 0"):
        EncoderSplit(max_local_tokens=-1)
    with pytest.raises(InputError, match="with role: both none does"):
        run(lab, [(0, call(0, (1, 9)))], policy=EncoderSplit(transfer="push"))
    with pytest.raises(InputError, match="encoder-split needs a pool with role: encode"):
        run(lab, [(0, call(0, (1, 9)))], encoders=0)
    with pytest.raises(InputError, match="places images again"):
        EncoderSplit(prompts=EncoderSplit())
    with pytest.raises(InputError, match="its policy says how KV travels"):
        EncoderSplit(prompts=StaticSplit(), transfer="push")
    case = lab.Case(LIMITS, [(0, call(0, (1, 9)))], cost=COST)
    config = replace(config_of(case, EncoderSplit(), 1), embedding_link=None)
    with pytest.raises(InputError, match="encoders need a link for embeddings"):
        simulate(config, case.clients())
    policy = type("Odd", (StaticSplit,), {"place": _one_encoder_too_many})
    with pytest.raises(InputError, match="the policy names 2 encoders for 1 images"):
        run(lab, [(0, call(0, (1, 9)))], policy=policy())


def _one_encoder_too_many(self: Any, request: Any, pools: Any, route: Any) -> Any:
    from infersim.policies.disaggregation.base import Placement

    return Placement(pools.mixed[0], None, encode=(pools.encode[0],) * 2)
