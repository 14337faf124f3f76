"""Why a prompt's tokens missed: each reason, its tokens, its price and where it began."""

from __future__ import annotations

from typing import Any

import pytest

from infersim.policies.types import Segment
from infersim.sim.state.content import Chains
from infersim.sim.state.misses import REASONS, MissExplainer, Seen
from infersim.sim.state.sequence import Sequence

SYSTEM = Segment(0, 0, 10, "system")
BLOCK = 4


class Desk:
    """Two replicas and an explainer."""

    def __init__(self, lab: Any, replicas: int = 2) -> None:
        self.lab, self.chains, self.count = lab, Chains(), 0
        self.explainer = MissExplainer([BLOCK] * replicas)

    def sequence(self, *prompt: Segment, answer: int = 900) -> Sequence:
        self.count += 1
        request = self.lab.request(self.count, segments=prompt, output_content=answer)
        chain = self.chains.chain(prompt)
        chain.append(answer, 0, 0)
        return Sequence(request, 5, chain, 1000)

    def served(self, replica: int, *prompt: Segment, answer: int = 900, answered: int = 0) -> None:
        seq = self.sequence(*prompt, answer=answer)
        self.explainer.computed(replica, seq, seq.prompt_tokens + answered)

    def why(self, *prompt: Segment, replica: int = 0, hit: int = 0) -> tuple[dict[str, int], str]:
        seq = self.sequence(*prompt, answer=901)
        misses = self.explainer.explain(replica, seq, hit, lambda new, old: 100 * new + old)
        assert hit + sum(misses.tokens) == seq.prompt_tokens
        assert [bool(cost) for cost in misses.cost_ps] == [bool(n) for n in misses.tokens]
        found = zip(REASONS, misses.tokens, strict=True)
        return {reason: n for reason, n in found if n}, misses.first


def test_what_nobody_sent_before_was_never_seen(lab: Any) -> None:
    assert Desk(lab).why(SYSTEM) == ({"never_seen": 10}, "system")


def test_what_was_here_and_is_not_hit_was_evicted(lab: Any) -> None:
    desk = Desk(lab)
    desk.served(0, SYSTEM)
    assert desk.why(SYSTEM, Segment(1, 0, 6, "user")) == (
        {"evicted": 10, "never_seen": 6},
        "system",
    )
    assert desk.why(SYSTEM, Segment(1, 0, 6, "user"), hit=4) == (
        {"evicted": 6, "never_seen": 6},
        "system",
    )


def test_the_rest_of_a_block_is_rounding(lab: Any) -> None:
    """10 tokens were here; 8 of them are whole blocks, which were hit."""
    desk = Desk(lab)
    desk.served(0, SYSTEM)
    assert desk.why(SYSTEM, Segment(1, 0, 6, "user"), hit=8) == (
        {"rounding": 2, "never_seen": 6},
        "system",
    )
    even = Segment(5, 0, 8)
    desk.served(0, even)
    assert desk.why(even, hit=4) == ({"rounding": 4}, "")  # one token is always computed


def test_what_only_another_replica_has_is_elsewhere(lab: Any) -> None:
    desk = Desk(lab)
    desk.served(1, SYSTEM, Segment(1, 0, 6, "user"))
    desk.served(0, SYSTEM)
    assert desk.why(SYSTEM, Segment(1, 0, 6, "user"), hit=8) == (
        {"rounding": 2, "elsewhere": 6},
        "system",
    )
    alone = Desk(lab, replicas=1)
    assert alone.why(SYSTEM) == ({"never_seen": 10}, "system")


def test_the_same_text_behind_another_prefix_diverged(lab: Any) -> None:
    desk = Desk(lab)
    tools, user = Segment(1, 0, 6, "tools"), Segment(2, 0, 5, "user")
    desk.served(0, SYSTEM, tools, user)
    assert desk.why(tools, SYSTEM, user) == ({"diverged": 21}, "tools")
    longer = Segment(2, 0, 9, "user")
    assert desk.why(tools, longer) == ({"diverged": 11, "never_seen": 4}, "tools")
    assert desk.why(Segment(2, 3, 4, "tail")) == ({"diverged": 2, "never_seen": 2}, "tail")


def test_an_edit_in_the_middle_makes_the_rest_diverge(lab: Any) -> None:
    desk = Desk(lab)
    old, new, tail = Segment(3, 0, 4, "clock"), Segment(4, 0, 4, "clock"), Segment(5, 0, 8, "tail")
    desk.served(0, SYSTEM, old, tail)
    assert desk.why(SYSTEM, new, tail, hit=8) == (
        {"rounding": 2, "never_seen": 4, "diverged": 8},
        "system",
    )


def test_an_answer_counts_as_far_as_it_was_computed(lab: Any) -> None:
    desk = Desk(lab)
    desk.served(0, SYSTEM, answer=50, answered=7)
    answer = Segment(50, 0, 9, "answer")
    assert desk.why(SYSTEM, answer, hit=16) == ({"rounding": 1, "never_seen": 2}, "answer")
    assert desk.why(answer) == ({"diverged": 7, "never_seen": 2}, "answer")


def test_a_prompt_hit_whole_has_no_misses(lab: Any) -> None:
    desk = Desk(lab)
    assert desk.why(SYSTEM, hit=10) == ({}, "")


def test_a_prompt_computed_in_part_counts_in_part(lab: Any) -> None:
    desk = Desk(lab)
    seq = desk.sequence(SYSTEM, Segment(1, 0, 8))
    desk.explainer.computed(0, seq, 6)
    assert desk.why(SYSTEM) == ({"evicted": 6, "never_seen": 4}, "system")


@pytest.mark.parametrize("first", [True, False])
def test_seen_remembers_the_longest_reach_of_a_text(lab: Any, first: bool) -> None:
    chains, seen = Chains(), Seen()
    short, long = chains.chain((SYSTEM,)), chains.chain((Segment(0, 0, 14), Segment(1, 0, 5)))
    for chain, tokens in ((short, 10), (long, 17)) if first else ((long, 17), (short, 10)):
        seen.add(chain, tokens)
    assert seen.ends[short.links[0]] == 14
    assert [seen.ends[link] for link in long.links] == [14, 17]
    assert 12345 not in seen.ends
