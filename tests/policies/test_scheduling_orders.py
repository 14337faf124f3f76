"""Who is served first, who gives way, and what vLLM's scheduler may be told."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from infersim.policies import registry
from infersim.policies.scheduling.base import choose_victim
from infersim.policies.scheduling.order import Fcfs, LastAdmitted, LowestPriority, Priority
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import Request


class Seen(NamedTuple):
    """A request in flight, as policies see it."""

    request: Request
    computed_tokens: int = 0
    known_tokens: int = 0
    preemptions: int = 0
    is_chunk: bool = False


def seen(number: int, arrival: int = 0, priority: int = 0) -> Seen:
    return Seen(Request(number, arrival, (), 10, 10, 0, priority=priority))


LINE = [seen(0, 30, 2), seen(1, 10, 2), seen(2, 20, 0), seen(3, 20, 1)]


@pytest.mark.parametrize(("order", "served"), [(Fcfs(), [1, 2, 3, 0]), (Priority(), [2, 3, 1, 0])])
def test_orders(order: Any, served: list[int]) -> None:
    ranked = sorted(LINE, key=lambda seq: (order.key(seq, 99), seq.request.id))
    assert [seq.request.id for seq in ranked] == served


@pytest.mark.parametrize(("victim", "loser"), [(LastAdmitted(), 3), (LowestPriority(), 0)])
def test_victims(victim: Any, loser: int) -> None:
    assert choose_victim(victim, LINE).request.id == loser


def test_of_equal_victims_the_later_admitted_gives_way() -> None:
    twins = [seen(5, 7, 1), seen(4, 7, 1), seen(3, 7, 0)]
    assert choose_victim(LowestPriority(), twins).request.id == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("long_prefill_token_threshold", -1),
        ("max_num_active_seqs", 0),
        ("watermark", 1.0),
        ("watermark", -0.1),
        ("prefill_schedule_interval", 0),
    ],
)
def test_what_vllm_v1_is_told_is_checked(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must .* {value}$"):
        VllmV1(**{field: value})


def test_they_are_known_by_name() -> None:
    assert registry.order.get("fcfs") is Fcfs
    assert registry.order.get("priority") is Priority
    assert registry.victim.get("last-admitted") is LastAdmitted
    assert registry.victim.get("lowest-priority") is LowestPriority
    assert registry.scheduling.get("vllm-v1") is VllmV1
    assert VllmV1.promise.repeats
    assert LowestPriority.promise.exportable
