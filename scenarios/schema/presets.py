"""Engine presets: policies under the names people know; the engine specs have the defaults."""

from __future__ import annotations

from typing import Any, NamedTuple

_NONE: dict[str, Any] = {}


class Preset(NamedTuple):
    """One preset.

    Attributes:
        summary: one line for ``infersim presets``.
        policies: what `policies:` has where the scenario says nothing.
        version: of the engine whose rules these are.
        source: where the rules were taken from, and how they were checked.
        parameters: of the scheduling policy, those that the preset fixes.
        block_size: tokens in a KV block, where the scenario does not say.
    """

    summary: str
    policies: dict[str, str]
    version: str = ""
    source: str = ""
    parameters: dict[str, Any] = _NONE
    block_size: int = 16


_LAST = {"order": "fcfs", "victim": "last-admitted", "eviction": "lru"}
_NEVER = {"order": "fcfs", "eviction": "lru"}  # nobody has to give up its KV


PRESETS: dict[str, Preset] = {
    "vllm-v1": Preset(
        "vLLM 0.33's V1 scheduler: continuous batching, chunked prefill, hash-chain prefix cache",
        {"scheduling": "vllm-v1", "order": "fcfs", "victim": "last-admitted", "eviction": "lru"},
        "0.33.0",
        "v1/core/sched/scheduler.py, v1/core/kv_cache_manager.py; conforms to recorded decisions",
    ),
    "vllm-v0": Preset(
        "vLLM's first engine: prompts before decodes, preemption by recompute or swap, paged KV",
        {"scheduling": "prefill-first", **_LAST},
        "0.6",
        "core/scheduler.py _schedule_default, core/block_manager.py; from reading",
    ),
    "sglang": Preset(
        "SGLang 0.5.23: a prefill or else a decode, admission by estimated answers, radix cache",
        {"scheduling": "sglang", "order": "fcfs", "eviction": "lru"},
        "0.5.23",
        "managers/schedule_policy.py conforms to recorded decisions; scheduler.py from reading",
    ),
    "tensorrt-llm": Preset(
        "TensorRT-LLM: in-flight batching; GUARANTEED_NO_EVICT, MAX_UTILIZATION or STATIC_BATCH",
        {"scheduling": "in-flight", **_LAST},
        "1.0",
        "cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp; from reading",
        block_size=32,
    ),
    "tgi": Preset(
        "Text Generation Inference: prefills when enough wait, KV of whole answers at admission",
        {"scheduling": "prefill-first", **_LAST},
        "2.4",
        "backends/v3/src/backend.rs, queue.rs, before prompts were cut; from reading",
        {"alternate": True, "reserve": "answer", "hold": True},
    ),
    "orca": Preset(
        "Orca: iteration-level batching of whole prompts, contiguous KV of the longest answer",
        {"scheduling": "in-flight", **_NEVER},
        "OSDI'22",
        "Yu et al., algorithm 1; from the paper",
        {"chunked_prefill": False, "hold": True},
    ),
    "lmdeploy-turbomind": Preset(
        "LMDeploy TurboMind: a persistent batch of slots, prompts cut to a budget beside decodes",
        {"scheduling": "in-flight", **_LAST},
        "0.7",
        "src/turbomind/models/llama/SequenceManager.cc, LlamaBatch.cc; from reading",
        {"reserve": "nothing"},
        block_size=64,
    ),
    "mlc-llm": Preset(
        "MLC-LLM: prompts, cut to a chunk, before decodes; a free page for each request",
        {"scheduling": "prefill-first", **_LAST},
        "2025",
        "cpp/serve/engine_actions/batch_prefill_base.cc; from reading",
        {"chunked_prefill": True, "decode_room_blocks": 1},
    ),
    "fastertransformer": Preset(
        "FasterTransformer: static batches, contiguous KV; who has ended is computed to the end",
        {"scheduling": "static-batch", **_NEVER},
        "5.3",
        "as in Orca's paper, section 3, without padding of prompts; nothing compared",
        {"pad_ended": True, "together": True},
    ),
    "ctranslate2": Preset(
        "CTranslate2: static batches of padded prompts, who has ended leaves the computation",
        {"scheduling": "static-batch", **_NEVER},
        "4",
        "src/decoding.cc, rows that have ended are gathered out; from reading",
        {"pad_prompts": True, "together": True},
    ),
    "candle": Preset(
        "candle's examples: one request at a time",
        {"scheduling": "static-batch", **_NEVER},
        "0.9",
        "candle-examples, one prompt a process; nothing compared",
    ),
    "generate": Preset(
        "Transformers' generate: static batches, all padded, all answered with the last",
        {"scheduling": "static-batch", **_NEVER},
        "4",
        "generation/utils.py, _sample; from reading",
        {"pad_prompts": True, "pad_ended": True, "together": True},
    ),
}
