"""Who stays where it decodes, and that this is as good as the better choice at the extremes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from infersim.policies.disaggregation.base import Placement, Travel
from infersim.policies.disaggregation.conditional import Conditional
from infersim.policies.disaggregation.static import StaticSplit
from infersim.policies.errors import InputError
from infersim.policies.types import Request
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import EngineLimits, LinkConfig

COST = LinearCost(10**6, 10**4)
LIMITS = EngineLimits(4000, max_num_batched_tokens=512, max_model_len=2000)


def run(case: Any, policy: Any = None) -> Outcome:
    """*policy* splits over a replica of each kind; without one both replicas do both."""
    if policy is None:
        return replace(case, replicas=2, decoders=0).run()
    config = replace(replace(case, decoders=1).config(), disaggregation=policy)
    return simulate(config, case.clients(), check=True)


def calls(lab: Any, prompt: int, output: int, apart_ps: int, count: int = 60) -> Any:
    arrivals = [(i * apart_ps, lab.call(i, prompt, output)) for i in range(count)]
    link = LinkConfig(10**6, 10**12)
    return lab.Case(LIMITS, arrivals, cost=COST, link=link, kv_bytes_per_token=1)


def latency(outcome: Outcome, start: str = "arrival_ps", end: str = "finish_ps") -> Any:
    return outcome.requests[end] - outcome.requests[start]


def test_short_prompts_are_served_as_colocated_which_is_better_than_split(lab: Any) -> None:
    """One request at a time, so that nothing but the way differs."""
    case = calls(lab, 20, 10, 10**9)
    conditional, whole = run(case, Conditional(max_local_tokens=100)), run(case)
    split = run(case, StaticSplit())
    for end in ("first_token_ps", "finish_ps"):
        mine, better = latency(conditional, end=end), latency(whole, end=end)
        assert mine.tolist() == better.tolist()
        assert (better < latency(split, end=end)).all()
    assert conditional.totals["link_bytes"] == 0


def test_long_prompts_are_served_as_split_which_is_better_than_colocated(lab: Any) -> None:
    """Prompts come while others decode: on one replica each is a pause for all of them."""
    case = calls(lab, 1000, 200, 24 * 10**6)
    conditional, whole = run(case, Conditional(max_local_tokens=100)), run(case)
    split = run(case, StaticSplit())
    assert lab.differing(conditional, split) == []
    assert latency(split).mean() < 0.95 * latency(whole).mean()


def test_between_the_extremes_each_prompt_goes_its_own_way(lab: Any) -> None:
    case = calls(lab, 20, 10, 10**8)
    case.arrivals += [
        (at + 5 * 10**7, lab.call(500 + i, 900, 10)) for i, (at, _) in enumerate(case.arrivals)
    ]
    rows = run(case, Conditional(max_local_tokens=100)).requests
    local = rows["prompt_tokens"] == 20
    assert (rows["prefill_replica"][local] == 1).all()
    assert (rows["prefill_replica"][~local] == 0).all()
    assert (rows["replica"] == 1).all()
    assert ((rows["transfer_bytes"] > 0) == ~local).all()


def test_a_long_prompt_that_the_decode_side_holds_stays(lab: Any) -> None:
    case = lab.Case(LIMITS, [(i * 10**9, lab.call(7, 900, 5)) for i in range(3)], cost=COST)
    rows = run(case, Conditional(max_local_tokens=100)).requests
    assert rows["prefill_replica"].tolist() == [0, 1, 1]
    assert rows["hit_tokens"].tolist() == [0, 896, 896]
    assert rows["transfer_bytes"].tolist() == [912 * 3, 0, 0]  # 57 blocks of 16


@dataclass
class Pools:
    """Two replicas of each kind; the decode replicas hold `hit` tokens of anything."""

    hit: int = 0
    waiting: int = 0
    prefill: list[int] = field(default_factory=lambda: [0, 1])
    decode: list[int] = field(default_factory=lambda: [2, 3])

    def prefix_hit_tokens(self, replica: int, request: Request) -> int:
        assert replica in self.decode
        return self.hit

    def load(self, replica: int) -> Any:
        assert replica in self.prefill
        return type("Load", (), {"waiting": self.waiting})


SPLIT, STAYS = Placement(1, 3, Travel()), Placement(3, None)


@pytest.mark.parametrize(
    ("params", "pools", "placement"),
    [
        ({}, Pools(), SPLIT),
        ({"max_local_tokens": 999}, Pools(), SPLIT),
        ({"max_local_tokens": 1000}, Pools(), STAYS),
        ({"max_local_tokens": 0}, Pools(hit=999), SPLIT),
        ({"max_local_tokens": 100}, Pools(hit=900), STAYS),
        ({"max_local_tokens": 100}, Pools(hit=899), SPLIT),
        ({"max_local_tokens": 0, "max_local_share": 0.5}, Pools(hit=500), STAYS),
        ({"max_local_tokens": 0, "max_local_share": 0.5}, Pools(hit=499), SPLIT),
        ({"max_prefill_waiting": 3}, Pools(waiting=2), SPLIT),
        ({"max_prefill_waiting": 3}, Pools(waiting=3), STAYS),
    ],
)
def test_the_rule(params: dict[str, Any], pools: Pools, placement: Placement) -> None:
    request = Request(0, 0, (), 1000, 10, 0)
    assert Conditional(**params).place(request, pools, lambda ids: ids[-1]) == placement


def test_what_is_refused() -> None:
    request = Request(0, 0, (), 1000, 10, 0)
    with pytest.raises(InputError, match="conditional needs a pool with role: prefill and one"):
        Conditional().place(request, Pools(prefill=[]), lambda ids: ids[0])
    with pytest.raises(InputError, match="must not be negative, found -1 and 0"):
        Conditional(max_local_tokens=-1)
    with pytest.raises(InputError, match="max_local_share is a share, 0 to 1, found 2"):
        Conditional(max_local_share=2)
