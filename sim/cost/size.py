"""What fits where and how fast, before anything is simulated: the numbers of ``infersim size``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import StepCost, StepShape
from .memory import GB, KvCapacity, MemoryOverheads, kv_capacity
from .overheads import Overheads
from .roofline import Roofline
from .specs import GpuSpec, ModelSpec, Parallelism
from .work import PS

PROMPTS = (1024, 8192)  #: prompt lengths whose TTFT is shown, in tokens
BATCHES = (1, 32, 128)  #: decode batches whose TPOT is shown
CONTEXTS = (1024, 4096, 16384, 65536)  #: contexts for which the largest batch is shown, in tokens
DECODE_CONTEXT = 1024  #: context of every sequence in the TPOT figures, in tokens


@dataclass(frozen=True)
class Size:
    """One model on one GPU type: memory, limits, and roofline latencies.

    Attributes:
        kv_bytes_per_token: written by a token on one GPU, over all layers.
        max_context_tokens: the longest single request: KV capacity, at most the model's max_pos.
        max_batch: context in tokens -> sequences of that length that fit, at most max_num_seqs.
        ttft_s: prompt tokens -> seconds alone on an idle replica; None where it does not fit.
        tpot_s: sequences of 1,024 tokens -> seconds of a decode step; None where they do not fit.
        source: where the latencies come from.
    """

    model: str
    gpu: str
    tp: int
    pp: int
    dtype: str
    kv_dtype: str
    parameters: int
    active_parameters: int
    kv_bytes_per_token: int
    capacity: KvCapacity
    max_context_tokens: int
    max_batch: dict[int, int]
    ttft_s: dict[int, float | None]
    tpot_s: dict[int, float | None]
    source: str

    def as_dict(self) -> dict[str, Any]:
        """The machine form: plain numbers and strings, units in the names."""
        plain = dict(vars(self))
        capacity = self.capacity
        plain["capacity"] = dict(vars(capacity)) | {
            "block_bytes": capacity.block_bytes,
            "kv_tokens": capacity.kv_tokens,
            "unused_bytes": capacity.unused_bytes,
        }
        for name in ("max_batch", "ttft_s", "tpot_s"):
            plain[name] = {str(key): value for key, value in plain[name].items()}
        return plain

    def rows(self) -> list[tuple[str, str, str]]:
        """(quantity, value with unit, how it was found), in the order in which one reads it."""
        active = f"{self.active_parameters / 1e9:.2f} B active"
        found = [("parameters", f"{self.parameters / 1e9:.2f} B", active)]
        for name, value, how in self.capacity.terms():
            found.append((name, f"{value / GB:.2f} GB", how))
        found += [
            (
                "KV per token",
                f"{self.kv_bytes_per_token:,} B",
                f"{self.kv_dtype}, per GPU, all layers",
            ),
            (
                "KV blocks",
                f"{self.capacity.kv_blocks:,}",
                f"of {self.capacity.block_size} tokens, {self.capacity.kv_tokens:,} tokens",
            ),
            ("max context", f"{self.max_context_tokens:,} tokens", "one request alone"),
        ]
        for context, batch in self.max_batch.items():
            found.append((f"max batch at {context:,}", f"{batch:,}", "sequences of that context"))
        for prompt, seconds in self.ttft_s.items():
            found.append((f"TTFT of {prompt:,}", _milliseconds(seconds), "alone, idle replica"))
        for batch, seconds in self.tpot_s.items():
            how = f"a decode step, {DECODE_CONTEXT:,} tokens of context each"
            found.append((f"TPOT at batch {batch}", _milliseconds(seconds), how))
        return [*found, ("latencies", "roofline", self.source)]


def size(
    model: ModelSpec,
    gpu: GpuSpec,
    parallelism: Parallelism | None = None,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    memory_fraction: float = 0.9,
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    block_size: int = 16,
    memory_overheads: MemoryOverheads | None = None,
    overheads: Overheads | None = None,
) -> Size:
    """Memory, limits and roofline latencies of one replica; arguments as of `kv_capacity`.

    Raises:
        InputError: the model does not fit or cannot be split like that.
    """
    split = parallelism or Parallelism()
    capacity = kv_capacity(
        model,
        gpu,
        split,
        dtype=dtype,
        kv_dtype=kv_dtype,
        memory_fraction=memory_fraction,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        block_size=block_size,
        overheads=memory_overheads,
    )
    cost = Roofline(model, gpu, split, dtype, kv_dtype, overheads)
    longest = min(model.max_pos, capacity.kv_tokens)
    batches = {
        context: min(max_num_seqs, capacity.kv_blocks // -(-context // block_size))
        for context in CONTEXTS
        if context <= model.max_pos
    }
    room = capacity.kv_blocks // -(-DECODE_CONTEXT // block_size)
    return Size(
        model=model.name,
        gpu=gpu.name,
        tp=split.tp,
        pp=split.pp,
        dtype=model.format(dtype).name,
        kv_dtype="bf16" if kv_dtype == "auto" else kv_dtype,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        kv_bytes_per_token=model.kv_bytes_per_token(kv_dtype, split.tp, split.pp),
        capacity=capacity,
        max_context_tokens=longest,
        max_batch=batches,
        ttft_s={
            prompt: prefill_s(cost, prompt, max_num_batched_tokens) if prompt <= longest else None
            for prompt in PROMPTS
        },
        tpot_s={b: _decode_s(cost, b) if b <= min(room, max_num_seqs) else None for b in BATCHES},
        source=cost.source,
    )


def prefill_s(cost: StepCost, prompt_tokens: int, chunk_tokens: int) -> float:
    """Seconds to the first token of a prompt alone, in chunks of at most *chunk_tokens*."""
    total = done = 0
    while done < prompt_tokens:
        new = min(chunk_tokens, prompt_tokens - done)
        samples = 1 if done + new == prompt_tokens else 0
        shape = (
            StepShape(1, done + 1, (), samples)
            if new == 1
            else StepShape(0, 0, ((new, done),), samples)
        )
        total += cost.duration_ps(shape)
        done += new
    return total / PS


def _decode_s(cost: StepCost, batch: int) -> float:
    return cost.duration_ps(StepShape(batch, batch * DECODE_CONTEXT, (), batch)) / PS


def _milliseconds(seconds: float | None) -> str:
    return "does not fit" if seconds is None else f"{seconds * 1e3:.3g} ms"
