"""Engine presets: policies under the names people know; the engine specs have the defaults."""

from __future__ import annotations

from typing import NamedTuple


class Preset(NamedTuple):
    """One preset.

    Attributes:
        summary: one line for ``infersim presets``.
        policies: what `policies:` has where the scenario says nothing.
    """

    summary: str
    policies: dict[str, str]


PRESETS: dict[str, Preset] = {
    "vllm-v1": Preset(
        "vLLM 0.33's V1 scheduler: continuous batching, chunked prefill, hash-chain prefix cache",
        {"scheduling": "vllm-v1", "order": "fcfs", "victim": "last-admitted", "eviction": "lru"},
    ),
    "sglang": Preset(
        "SGLang 0.5.23: a prefill or else a decode, admission by estimated answers, radix cache",
        {"scheduling": "sglang", "order": "fcfs", "eviction": "lru"},
    ),
}
