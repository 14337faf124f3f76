"""Links name prefixes: two prompts agree exactly as far as their tokens do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infersim.policies.types import Segment
from infersim.sim.state.content import Chains

PARTS = st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(1, 4))
PROMPTS = st.lists(PARTS, min_size=1, max_size=5)


def tokens(parts: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(content, offset + i) for content, offset, size in parts for i in range(size)]


@given(PROMPTS, PROMPTS)
def test_chains_agree_as_far_as_tokens_do(
    one: list[tuple[int, int, int]], two: list[tuple[int, int, int]]
) -> None:
    chains = Chains()
    a, b = (chains.chain(Segment(*part) for part in parts) for parts in (one, two))
    x, y = tokens(one), tokens(two)
    limit = min(len(x), len(y))
    common = next((i for i in range(limit) if x[i] != y[i]), limit)
    assert a.agrees(b, limit) == common
    assert [a.link_at(i) == b.link_at(i) for i in range(limit)] == [
        i < common for i in range(limit)
    ]


def test_equal_shifts_behind_unequal_starts_are_not_equal() -> None:
    chains = Chains()
    a = chains.chain([Segment(0, 0, 5), Segment(0, 7, 2)])
    b = chains.chain([Segment(0, 0, 6), Segment(0, 8, 2)])
    assert a.agrees(b, 7) == 5
