"""Replicas that change roles: drained first, nothing lost, nothing twice. And who stays put."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.disaggregation.base import Placement, Switch
from infersim.policies.disaggregation.static import StaticSplit
from infersim.policies.disaggregation.switching import RoleSwitching
from infersim.policies.errors import InputError
from infersim.policies.types import PS_PER_S, Promise
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import EngineLimits
from infersim.sim.state.roles import Roles

CASES = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Restless(StaticSplit):
    """Moves a replica whenever it is asked, to and fro."""

    promise: ClassVar[Promise] = Promise()

    def rebalance(self, now: int, pools: Any) -> Switch | None:
        if len(pools.prefill) > 1:
            return Switch(pools.prefill[0], "decode")
        if len(pools.decode) > 1:
            return Switch(pools.decode[-1], "prefill")
        return None


def random_switching(lab: Any, rng: Random) -> tuple[Any, Any]:
    """A case of the lab with two to three replicas of each role, and who moves them."""
    case = lab.random_case(rng)
    case.replicas, case.decoders = rng.choice((2, 3)), rng.choice((2, 3))
    case.link = replace(case.link, failure=rng.choice((0.0, 0.0, 0.3)))
    travel = rng.choice(({}, {"transfer": "push"}, {"transfer": "push", "overlap": "layers"}))
    if rng.random() < 0.5:
        return case, lambda: Restless(**travel)
    queues, pause = rng.choice((0.1, 0.5, 1.0)), rng.choice((0.0, 1.0))
    return case, lambda: RoleSwitching(
        **travel, prefill_queue=queues, decode_queue=queues, pause_s=pause
    )


def run(case: Any, make: Any, *, leap: bool = True) -> Outcome:
    config = case.config()
    pools = tuple(replace(pool, layers=3) for pool in config.pools)
    rng = np.random.default_rng(5)
    config = replace(config, pools=pools, disaggregation=make(), link_rng=rng)
    return simulate(config, case.clients(), leap=leap, check=True)


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, rng: Random) -> None:
    case, make = random_switching(lab, rng)
    assert lab.differing(*(run(case, make, leap=leap) for leap in (True, False))) == []


@CASES
@given(rng=st.randoms(use_true_random=False))
def test_nothing_is_lost_or_done_twice(lab: Any, rng: Random) -> None:
    """The same requests, statuses and tokens as where every replica does both."""
    case, make = random_switching(lab, rng)
    case.arrivals = [(at, what) for at, what in case.arrivals if not isinstance(what, lab.Script)]
    switched = run(case, make).requests
    case.decoders = 0
    whole = case.run().requests
    for column in ("request_id", "status", "prompt_tokens", "output_tokens"):
        assert switched[column].tolist() == whole[column].tolist()


def test_no_replica_serves_two_roles_at_once(lab: Any, monkeypatch: Any) -> None:
    """A replica that changes is given nothing until it has nothing, and moves are many."""
    serving: Counter[tuple[int, str]] = Counter()
    placed, ended = Roles.placed, Roles.served
    moves = 0

    def check(self: Roles, placement: Placement) -> None:
        assert placement.prefill in self.of["prefill"]
        assert placement.decode in self.of["decode"]
        assert not serving[placement.prefill, "decode"]
        assert not serving[placement.decode or 0, "prefill"]
        serving[placement.prefill, "prefill"] += 1
        serving[placement.decode or 0, "decode"] += 1
        placed(self, placement)

    def over(self: Roles, replica: int) -> None:
        role = "prefill" if serving[replica, "prefill"] else "decode"
        serving[replica, role] -= 1
        assert serving[replica, role] >= 0
        ended(self, replica)

    monkeypatch.setattr(Roles, "placed", check)
    monkeypatch.setattr(Roles, "served", over)
    for seed in range(40):
        case, make = random_switching(lab, Random(seed))
        serving.clear()
        moves += run(case, make).totals["role_switches"]
        assert not +serving
    assert moves > 100


def phases(lab: Any) -> Any:
    """First long prompts with answers of one token, then short prompts with long answers."""
    limits = EngineLimits(4000, max_num_batched_tokens=512, max_model_len=2000, max_num_seqs=4)
    prompts = [(i * 4 * 10**7, lab.call(i, 1500, 1)) for i in range(80)]
    answers = [(2 * 10**10 + i * 4 * 10**7, lab.call(100 + i, 20, 400)) for i in range(80)]
    case = lab.Case(limits, prompts + answers, cost=LinearCost(10**6, 10**5))
    case.replicas = case.decoders = 2
    return case


def test_roles_follow_the_load(lab: Any) -> None:
    case = phases(lab)
    moving = run(case, lambda: RoleSwitching(pause_s=0.0001))
    still = run(case, lambda: StaticSplit())
    assert 2 <= moving.totals["role_switches"] <= 8
    assert "role_switches" not in still.totals
    prefill = moving.requests["prefill_replica"]
    decode = moving.requests["replica"]
    assert set(prefill[:4].tolist()) == {0, 1}
    assert len(set(prefill[:80].tolist())) == 3  # one of the decode side has joined
    assert len(set(decode[80:].tolist())) == 3
    took = [run.requests["finish_ps"] - run.requests["arrival_ps"] for run in (moving, still)]
    for half in (slice(0, 80), slice(80, 160)):
        assert took[0][half].mean() < 0.9 * took[1][half].mean()


def test_a_pause_keeps_them_where_they_are(lab: Any) -> None:
    assert run(phases(lab), lambda: RoleSwitching(pause_s=10**6)).totals["role_switches"] == 1


@dataclass
class Pools:
    """Loads by replica, and who does what."""

    waiting: dict[int, int]
    prefill: list[int]
    decode: list[int]
    arriving: dict[int, int] = field(default_factory=dict)

    def load(self, replica: int) -> Any:
        arriving = self.arriving.get(replica, 0)
        waiting = self.waiting[replica] + arriving
        return type("Load", (), {"waiting": waiting, "arriving": arriving, "running": 0})


def test_who_moves() -> None:
    policy = RoleSwitching(prefill_queue=2, decode_queue=3, pause_s=1)
    assert policy.rebalance(0, Pools({0: 2, 1: 1, 2: 0, 3: 0}, [0, 1], [2, 3])) is None
    both = Pools({0: 9, 1: 9, 2: 9, 3: 9}, [0, 1], [2, 3])
    assert replace(policy).rebalance(0, both) == Switch(0, "decode")
    assert replace(policy, transfer="push").rebalance(0, both) == Switch(2, "prefill")
    coming = Pools({0: 1, 1: 1, 2: 0, 3: 0}, [0, 1], [2, 3], {2: 9, 3: 9})
    assert policy.rebalance(0, coming) is None  # the decode side has room for them
    last = Pools({0: 9, 1: 0}, [0], [1])
    assert policy.rebalance(0, last) is None
    more = Pools({0: 2, 1: 2, 2: 1, 3: 0}, [0, 1], [2, 3])
    assert policy.rebalance(5, more) == Switch(3, "prefill")
    less = Pools({0: 1, 1: 1, 2: 3, 3: 3}, [0, 1], [2, 3])
    assert policy.rebalance(PS_PER_S + 4, less) is None  # too soon
    assert policy.rebalance(PS_PER_S + 5, less) == Switch(0, "decode")
    with pytest.raises(InputError, match="prefill_queue and decode_queue must be above 0"):
        RoleSwitching(prefill_queue=0)


@pytest.mark.parametrize("move", [Switch(0, "decode"), Switch(0, "prefill"), Switch(9, "decode")])
def test_an_impossible_move_is_an_error(move: Switch, lab: Any) -> None:
    case = lab.Case(EngineLimits(50), [(0, lab.call(0, 20, 5))], decoders=1)
    policy = type("Odd", (StaticSplit,), {"rebalance": lambda self, now, pools: move})
    with pytest.raises(InputError, match=f"the policy moves replica {move.replica} to {move.role}"):
        run(case, policy)


def test_ranks_of_one_engine_keep_their_roles(lab: Any) -> None:
    case = lab.Case(EngineLimits(50), [(0, lab.call(0, 20, 5))], decoders=1, ranks=2)
    with pytest.raises(InputError, match="2 ranks of pool a step together and cannot change roles"):
        run(case, lambda: RoleSwitching())
