"""workflow-aware and modality-aware in the engine: leaps and books, on both indexes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.eviction.lru import Lru
from infersim.policies.registry import eviction
from infersim.policies.scheduling.sglang.scheduler import Sglang
from infersim.policies.types import MultiModalItem, Segment, WorkflowHint
from infersim.sim.state.session import Call

CASES = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
EVICTIONS: dict[str, Callable[[], Any]] = {
    "workflow-aware": lambda: eviction.get("workflow-aware")(forget_s=20.0),
    "modality-aware": lambda: eviction.get("modality-aware")(media_share=0.3),
}


def hinted(rng: Random, call: Call) -> Call:
    """What a frontend would add: its agent, told by the opening, and anything of the future."""
    tokens = sum(part.tokens for part in call.prompt)
    if tokens > 4 and rng.random() < 0.3:
        call = call._replace(items=(MultiModalItem(rng.randrange(3), 1, min(tokens - 2, 7)),))
    if rng.random() < 0.3:
        return call
    agent = str(call.prompt[0].content % 4)
    steps = tuple((str(n), rng.randrange(5)) for n in range(4) if rng.random() < 0.6)
    fixed = rng.choice((0, call.prompt[0].tokens, tokens))
    return call._replace(workflow=WorkflowHint(rng.randrange(4), agent, fixed, steps))


def hint_all(rng: Random, what: Any) -> Any:
    """The same for every call of a script."""
    if isinstance(what, Call):
        return hinted(rng, what)
    steps = []
    for kind, *rest in what.steps:
        if kind == "call":
            rest = [hinted(rng, rest[0]), rest[1]]
        elif kind == "together":
            rest = [[hint_all(rng, script) for script in rest[0]]]
        steps.append((kind, *rest))
    return replace(what, steps=steps)


def agents(rng: Random, longest: int) -> list[tuple[int, Call]]:
    """Twenty calls of four agents that begin with a third of the context each."""
    at, out = 0, []
    for n in range(20):
        at += rng.choice((0, 10**11, 10**12))
        opening = Segment(rng.randrange(4), 0, max(longest // 3, 1))
        own = Segment(1000 + n, 0, rng.randint(1, max(longest // 3, 1)))
        out.append((at, Call((opening, own), rng.choice((1, 3)), 2000 + n)))
    return out


def case_of(lab: Any, rng: Random, name: str, index: str) -> Any:
    """A random case of the engine's tests with hints and images, and KV to spare or not."""
    case = lab.random_case(rng)
    calls = sorted([*case.arrivals, *agents(rng, case.limits.max_model_len)], key=lambda c: c[0])
    case.arrivals = [(at, hint_all(rng, what)) for at, what in calls]
    limits = replace(case.limits, encoder_budget=0, encoder_cache_size=0, prefix_caching=True)
    case.limits = replace(limits, prefix_index=index)
    case.eviction = EVICTIONS[name]
    if index == "radix":
        case.decoders = 0
        if rng.random() < 0.5:
            size = limits.block_size
            least = -(-(limits.max_model_len + 2 * size + 1) // size)
            case.priority = False
            case.limits = replace(
                case.limits,
                num_spec_tokens=0,
                lookahead_tokens=0,
                max_num_batched_tokens=1 << 30,
                kv_blocks=least + rng.choice((0, 3, 40)),
            )
            case.make_scheduler = lambda: Sglang(chunked_prefill_size=8 * size)
    return case


@pytest.mark.parametrize("index", ["hash-chain", "radix"])
@pytest.mark.parametrize("name", EVICTIONS)
@CASES
@given(rng=st.randoms(use_true_random=False))
def test_leaps_change_no_byte(lab: Any, name: str, index: str, rng: Random) -> None:
    case = case_of(lab, rng, name, index)
    assert lab.differing(case.run(leap=True), case.run(leap=False)) == []


def test_the_cases_decide_otherwise_than_lru(lab: Any) -> None:
    """So that leaping over what these policies do is something."""
    for name in EVICTIONS:
        for index in ("hash-chain", "radix"):
            differs = 0
            for seed in range(12):
                case = case_of(lab, Random(seed), name, index)
                with_policy = case.run(check=False)
                case.eviction = Lru
                differs += lab.differing(with_policy, case.run(check=False)) != []
            assert differs >= 3, (name, index, differs)
