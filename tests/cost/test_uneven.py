"""What uneven contexts add: closed forms beside the definition, and leaps beside steps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infersim.policies.disaggregation.static import Colocated
from infersim.policies.eviction.lru import Lru
from infersim.policies.routing.simple import RoundRobin
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import Segment
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import EVEN, DecodeLine, StepShape
from infersim.sim.cost.profile import Graphs, Host, Profile, Stamp, Table, Uneven
from infersim.sim.cost.scaled import scaled
from infersim.sim.cost.tables import TableCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, PoolConfig
from infersim.sim.state.session import Arrival, Call

CONTEXTS, SIZES, CHUNKS = (16.0, 256.0, 1024.0, 4096.0), (1.0, 4.0, 16.0), (16.0, 256.0)
#: rises unlike a line, so that pieces have slopes of their own
ATTENTION = tuple(
    [(0.0, 0.0, n, k, 1e-6 * (8 + n * k**0.9 / 100)) for n in SIZES for k in CONTEXTS]
    + [(c, p, 0.0, 0.0, 1e-6 * (5 + c * (p + c) / 5e3)) for c in CHUNKS for p in (0.0, 512.0)]
    + [
        (c, p, n, k, 1e-6 * (9 + n * k**0.9 / 90 + c * (p + c) / 4e3))
        for c in CHUNKS
        for p in (0.0, 512.0)
        for n in SIZES
        for k in CONTEXTS
    ]
)
UNEVEN = Uneven(
    default=0.05,
    sequences=(2.0, 8.0, 64.0),
    shares=(0.05, 0.4, 1.01),
    longest=(300.0, 1024.0, 8192.0),
    prefixes=(0.0, 512.0),
    alphas=tuple(
        (chunk, n, share, most, 0, 0.1 + 0.07 * n - 0.2 * share + 0.1 * most + chunk / 1e4)
        for chunk in (0.0, *CHUNKS)
        for n in range(3)
        for share in range(3)
        for most in (0, 1)  # the longest have the default
    ),
)


def cost(**changes: object) -> TableCost:
    """llama-3.1-8b in tables of attention and one product; the rest is the roofline's."""
    values: dict[str, object] = {
        "name": "test",
        "stamp": Stamp(origin="imported", gpu="rtx-4090"),
        "model": "llama-3.1-8b",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "attention": "mixed",
        "tables": (
            Table(
                op="attention",
                times=32,
                by=("chunk", "prefix", "decodes", "context_tokens"),
                points=ATTENTION,
            ),
        ),
        "host": Host(),
        "uneven": UNEVEN,
    }
    made = Profile.model_validate(values | changes)
    return TableCost(made, model("llama-3.1-8b"), gpu("rtx-4090"))


COSTS = {
    "plain": cost(),
    "graphs": cost(graphs=Graphs(sizes=(1, 2, 4, 8, 16), replay_s=2e-5, gap=0.05)),
    "slow host": cost(host=Host(step_s=2.2e-2)),
    "scaled": scaled(cost(), 1.01),
}


def shape(contexts: list[int], prefills: tuple[tuple[int, int], ...] = ()) -> StepShape:
    ends = (min(contexts), max(contexts)) if contexts else EVEN
    return StepShape(
        len(contexts), sum(contexts), prefills, len(contexts) + len(prefills), (), ends
    )


def test_equal_contexts_add_nothing() -> None:
    made, without = cost(), cost(uneven=None)
    assert made.uneven
    assert not without.uneven
    for contexts in ([500], [700, 700, 700]):
        for prefills in ((), ((256, 512),)):
            even = shape(contexts, prefills)
            assert made.duration_ps(even) == without.duration_ps(even)
            assert made.duration_ps(even._replace(contexts=EVEN)) == without.duration_ps(even)


def test_a_step_is_the_definition() -> None:
    """t(mean) + alpha (t(longest) - t(mean)), with alpha of the bucket, or between two chunks."""
    made, plain = cost(), cost(uneven=None)
    contexts = [100, 100, 100, 900]  # mean 300, a quarter of the way: share bucket 1

    def attention(each: int, prefills: tuple[tuple[int, int], ...]) -> float:
        return plain.predict(shape([each] * 4, prefills)).parts["attention"].seconds

    for prefills, alpha in (
        ((), 0.1 + 0.07 - 0.2 + 0.1),
        (((256, 0),), 0.1 + 0.07 - 0.2 + 0.1 + 0.0256),
        (((136, 0),), 0.1 + 0.07 - 0.2 + 0.1 + 0.0136),
        (((256, 512),), 0.05),  # no bucket has such a prefix
    ):
        mean, most = attention(300, prefills), attention(900, prefills)
        found = made.predict(shape(contexts, prefills)).parts["attention"].seconds
        assert found == pytest.approx(mean + alpha * (most - mean), rel=1e-9)
        assert found != pytest.approx(mean, rel=1e-3)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(COSTS)),
    st.lists(st.integers(1, 3000), min_size=2, max_size=20),
    st.integers(0, 3000),
)
def test_a_line_holds_as_long_as_all_grow(name: str, contexts: list[int], steps: int) -> None:
    made = COSTS[name]

    def line(grown: int) -> DecodeLine:
        ends = min(contexts) + grown, max(contexts) + grown
        return made.decode_line(len(contexts), sum(contexts) + grown * len(contexts), ends)

    first, total = line(0), sum(contexts)
    assert total < first.until
    inside = min(steps, (first.until - 1 - total) // len(contexts))
    assert line(inside)[:3] == first[:3]
    grown = shape([c + steps for c in contexts])
    base, slope, until, _ = line(steps)
    assert made.duration_ps(grown) == base + slope * grown.decode_context_tokens >= 1
    assert grown.decode_context_tokens < until
    assert slope >= 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6000), min_size=2, max_size=20))
def test_a_line_follows_the_table(contexts: list[int]) -> None:
    made = cost()
    parts = made.predict(shape(contexts)).parts
    assert abs(parts["host"].seconds) < 1e-7


class Calls:
    """Requests of unlike lengths, some of which come in the middle of others' answers."""

    resources: dict[str, int] = {}  # noqa: RUF012
    closed_loop, expected_requests = False, 30

    def arrivals(self):  # type: ignore[no-untyped-def]
        for i in range(30):
            tokens = 20 + 331 * i % 1700
            prompt = (Segment(2 * i, 0, tokens),)
            call = Call(prompt, 40 + 17 * i % 90, 2 * i + 1, max_tokens=40 + 17 * i % 90)
            call = call._replace(lora="" if i % 3 else f"adapter-{i % 2}")
            yield Arrival(i * 9 * 10**10, call)


def run(made: TableCost, asynchronous: bool, *, leap: bool) -> Outcome:
    limits = EngineLimits(900, async_scheduling=asynchronous, prefix_caching=True)
    pool = PoolConfig("serve", "both", 1, limits, made, VllmV1, Lru, 131_072)
    config = ClusterConfig((pool,), RoundRobin(), Colocated())
    return simulate(config, Calls(), leap=leap)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_leaps_give_the_same_bytes_and_the_correction_shows(asynchronous: bool) -> None:
    fast, slow, without = (
        run(cost(), asynchronous, leap=True),
        run(cost(), asynchronous, leap=False),
        run(cost(uneven=None), asynchronous, leap=True),
    )
    assert fast.effort.leapt_steps > 100
    for name, column in fast.requests.items():
        assert (column == slow.requests[name]).all(), name
    assert fast.totals == slow.totals
    assert fast.totals["busy_ps"] != without.totals["busy_ps"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_leaps_know_how_many_have_adapters(asynchronous: bool) -> None:
    """Two of three requests have none."""
    points = tuple((float(t), 1e-6 * t) for t in (1, 1024))
    lora = Table(op="lora", times=32, by=("tokens",), points=points)
    made = cost(tables=(*cost().profile.tables, lora))
    fast, slow = (run(made, asynchronous, leap=leap) for leap in (True, False))
    assert fast.effort.leapt_steps > 100
    for name, column in fast.requests.items():
        assert (column == slow.requests[name]).all(), name
    assert fast.totals == slow.totals
    bare = run(cost(), asynchronous, leap=True)
    assert fast.totals["busy_ps"] > bare.totals["busy_ps"]


def test_buckets_that_are_none_are_refused() -> None:
    with pytest.raises(ValidationError, match="lies in no bucket"):
        UNEVEN.model_validate(UNEVEN.model_dump() | {"alphas": ((16.0, 3, 0, 0, 0, 0.1),)})
    with pytest.raises(ValidationError, match="shares of uneven must rise"):
        UNEVEN.model_validate(UNEVEN.model_dump() | {"shares": (0.4, 0.1)})
    tables = (Table(op="qkv", times=32, by=("tokens",), points=((1.0, 1e-5),)),)
    with pytest.raises(ValidationError, match="no such table"):
        cost(tables=tables)
