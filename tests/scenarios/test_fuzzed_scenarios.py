"""Scenarios changed at random load or are refused: never another exception, never a hang."""

import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.scenarios import grid, load
from infersim.scenarios.document import parse

SEEDS = [load.find(name).read_text() for name in load.shipped()]
SEEDS.append(
    "name: s\ncluster: {gpu: h100, model: qwen3-8b, tp: 2, engine: {preset: vllm-v1}}\n"
    "workload: {kind: chat, sessions: 3, concurrency: 2, think_s: 4}\n"
    "policies: {order: priority, victim: lowest-priority, routing: {name: prefix-aware}}\n"
    "slo: {ttft_s: 1}\nlimits: {requests: 4, duration_s: 3.5}\nprices: {gpu_hour_usd: 2}\n"
)
TOKENS = (
    *("0", "-1", "1e9", "1e400", ".nan", "true", "null", "~", '""', "'", '"', "x", "lru", "a.b"),
    *("[]", "{}", "[1, 2]", "{name: lru}", "&a", "*a", "<<: *a", "- ", ": ", "\n", "\n  ", "#"),
    *("kind: trace", "kind: agent", "compare:", "cells:", "pools:", "name:", "!!int", "%", "\t"),
    *("cluster.replicas: [1, 2]", "file: nowhere.jsonl", "my.py:Mine", "é", "\u0000", "\ufeff"),
)


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A scenario with one to four places cut out, filled or doubled."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from((0, 0, 1, 3, 12, 60))))
        filled = draw(st.sampled_from(TOKENS) | st.just(text[start:end] * 2))
        text = text[:start] + filled + text[end:]
    return text


def refusal(text: str) -> InputError | None:
    try:
        grid.cells(load.Source(parse(text, "f.yaml"), (Path("/nowhere"),)))
    except InputError as error:
        return error
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changed())
def test_a_changed_scenario_loads_or_is_refused(text: str) -> None:
    start = time.perf_counter()
    error = refusal(text)
    assert time.perf_counter() - start < 20
    assert error is None or str(error)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "cluster",
                "replicas",
                "policies",
                "eviction",
                "0",
                "x",
                "",
                "cells",
                "compare",
                "workload",
                "kind",
                "engine",
                "pools",
            ]
        ),
        max_size=5,
    ),
    st.sampled_from(TOKENS),
)
def test_a_random_setting_is_applied_or_refused(keys: list[str], value: str) -> None:
    try:
        source = load.read("bursty_api", [f"{'.'.join(keys)}={value}"])
        grid.cells(source)
    except InputError as error:
        assert "--set" in str(error) or "bursty_api" in str(error)  # noqa: PT017
