"""Engine presets: policies, defaults and overheads under the names people know. Data only."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """One preset.

    Attributes:
        summary: one line for ``infersim presets``.
        engine: values of `schema.engine.EngineSpec`, over its own defaults.
        policies: what `policies:` has where the scenario says nothing.
    """

    summary: str
    engine: dict[str, Any]
    policies: dict[str, str]


PRESETS: dict[str, Preset] = {
    "vllm-v1": Preset(
        "vLLM 0.33's V1 scheduler: continuous batching, chunked prefill, hash-chain prefix cache",
        {},
        {"scheduling": "vllm-v1", "order": "fcfs", "victim": "last-admitted", "eviction": "lru"},
    ),
}
