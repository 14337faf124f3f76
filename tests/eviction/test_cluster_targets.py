"""The agent trace through the simulator's pools: figures computed elsewhere, and eight replicas."""

from __future__ import annotations

from pathlib import Path

import pytest

from infersim.policies.registry import eviction, routing
from infersim.scenarios.cache.cluster import Cluster, Shape
from infersim.scenarios.cache.visits import Visits, visits_of
from infersim.scenarios.traces.load import load

TRACE = Path(__file__).parents[2].parent / "shared/traces/claude_code_sessions.jsonl.xz"
pytestmark = pytest.mark.skipif(not TRACE.is_file(), reason="the shared traces are not here")

ENDLESS = 3_000_000  #: more blocks than the trace has


@pytest.fixture(scope="module")
def agents() -> Visits:
    """One session a minute."""
    return visits_of(load(TRACE), 60.0)


def hit_rate(visits: Visits, replicas: int, blocks: int, router: str = "round-robin") -> float:
    """Of lru with blocks of 64 tokens, 64 requests in flight."""
    shape = Shape(replicas, blocks, 64)
    cluster = Cluster(shape, lambda _: eviction.get("lru")(), routing.get(router)())
    outcome = cluster.serve(visits.requests)
    assert not outcome.refused
    return outcome.hit_tokens / visits.prompt_tokens


@pytest.mark.parametrize(("blocks", "expected"), [(100_000, 0.926), (1_000_000, 0.963)])
def test_one_cache_hits_as_often_as_computed_elsewhere(
    agents: Visits, blocks: int, expected: float
) -> None:
    assert len(agents.requests) == 31_833
    assert hit_rate(agents, 1, blocks) == pytest.approx(expected, abs=0.003)


def test_with_eight_replicas_sticky_sessions_are_near_the_infinite_cache(agents: Visits) -> None:
    ideal = hit_rate(agents, 1, ENDLESS)
    assert ideal - hit_rate(agents, 8, 125_000, "session-sticky") < 0.02
    assert ideal - hit_rate(agents, 8, 125_000, "prefix-aware") < 0.02
    assert ideal - hit_rate(agents, 8, 125_000, "round-robin") > 0.02
