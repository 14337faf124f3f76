"""Where prefill and decode run: two placements and what they need."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from infersim.policies import registry
from infersim.policies.disaggregation.base import Placement
from infersim.policies.disaggregation.static import Colocated, StaticSplit
from infersim.policies.errors import InputError
from infersim.policies.types import Request

ANY = Request(0, 0, (), 10, 10, 0)


@dataclass
class Pools:
    mixed: list[int] = field(default_factory=list)
    prefill: list[int] = field(default_factory=list)
    decode: list[int] = field(default_factory=list)


def last(candidates: list[int]) -> int:
    return candidates[-1]


def test_colocated_routes_among_replicas_that_do_both() -> None:
    assert Colocated().place(ANY, Pools(mixed=[0, 1, 2]), last) == Placement(2, None)


def test_static_split_routes_in_each_pool() -> None:
    pools = Pools(mixed=[9], prefill=[0, 1], decode=[2, 3, 4])
    assert StaticSplit().place(ANY, pools, last) == Placement(1, 4)


def test_a_placement_without_its_pools_is_an_error() -> None:
    with pytest.raises(InputError, match="colocated needs replicas with role: both"):
        Colocated().place(ANY, Pools(prefill=[0], decode=[1]), last)
    for pools in (Pools(mixed=[0]), Pools(prefill=[0]), Pools(decode=[0])):
        with pytest.raises(InputError, match="static-split needs a pool with role: prefill and"):
            StaticSplit().place(ANY, pools, last)


def test_they_are_known_by_name() -> None:
    assert registry.disaggregation.get("colocated") is Colocated
    assert registry.disaggregation.get("static-split") is StaticSplit
