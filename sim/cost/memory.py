"""How many KV blocks a replica gets: vLLM's memory profile recomputed, every term in the open.

vLLM takes `memory_fraction` of the memory the driver shows, runs a dummy step of
`max_num_batched_tokens` tokens and a dummy sampling of `max_num_seqs` rows, subtracts weights, what
torch peaked at and what grew outside torch, and cuts the rest into blocks
(`v1/worker/gpu_worker.py determine_available_memory`). The CUDA context was there before, so it
comes out of the other part. The constants and how well they do are in `MemoryOverheads`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ...policies.errors import InputError
from . import parameters, vision
from .dtypes import HALF_BYTES, kv_element_bytes
from .specs import GpuSpec, ModelSpec, Parallelism

GIB = 2**30
GB = 10**9


@dataclass(frozen=True)
class MemoryOverheads:
    """What no dimension of the model gives.

    Source of the first three: vLLM 0.11 on an H100, five models (github:llm-d/llm-d-benchmark
    config_explorer/empirical-vllm-memory-results.md), met within 0.5 % of the activation peak.
    The peak moves with the version: an RTX 4090 under 0.19 fits 32 bytes a logit, an A100 under
    0.31 fits 46. Compare `kv_blocks` first, and override it where the engine has printed its own.

    Attributes:
        sampler_bytes_per_logit: peak of sorting and sampling one row, per entry of the vocabulary:
            logits twice, sorted values, their indices, the workspace of the sort.
        non_torch_bytes: what kernels and libraries allocate beside torch on a single GPU.
        non_torch_bytes_tp: the same with NCCL's buffers, where a replica has several GPUs.
        cuda_context_bytes: taken before the budget is drawn up; refused if the budget reaches it.
        cuda_graph_bytes: deducted from the budget. vLLM deducts an estimate from 0.21 on; between
            0.1 and 1.6 GiB were seen. 0 is vLLM up to 0.20.
    """

    sampler_bytes_per_logit: float = 38.3
    non_torch_bytes: int = int(0.13 * GIB)
    non_torch_bytes_tp: int = int(0.55 * GIB)
    cuda_context_bytes: int = int(0.61 * GIB)
    cuda_graph_bytes: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise InputError(
                    f"{field.name} must be finite and not negative, found {value}",
                    where="memory overheads",
                )


@dataclass(frozen=True)
class KvCapacity:
    """Where the memory of the fullest GPU goes; all of it in bytes unless the name says otherwise.

    budget = weights + rope cache + activation peak + non-torch + CUDA graphs + sliding reserve
    + kv_blocks * block + unused.

    Attributes:
        budget_bytes: memory_fraction of the GPU.
        sliding_reserve_bytes: KV of sliding-window layers, which stops growing at the window: for
            every sequence its window, and one step of tokens. At most the share these layers would
            have if they kept every token, so short contexts are served as if there were no window.
        kv_bytes_per_token: what a token of context keeps for good, on this GPU.
        kv_blocks: what vLLM prints as num_gpu_blocks, its null block included.
        cuda_context_bytes: outside of the budget.
        stage: the pipeline stage that has least room; it decides for all.
    """

    gpu_memory_bytes: int
    memory_fraction: float
    budget_bytes: int
    weights_bytes: int
    rope_cache_bytes: int
    activation_peak_bytes: int
    non_torch_bytes: int
    cuda_graph_bytes: int
    sliding_reserve_bytes: int
    kv_bytes_per_token: int
    block_size: int
    kv_blocks: int
    cuda_context_bytes: int
    stage: int

    @property
    def block_bytes(self) -> int:
        """Bytes of one block on this GPU."""
        return self.block_size * self.kv_bytes_per_token

    @property
    def taken_bytes(self) -> int:
        """Everything in the budget that is not KV blocks."""
        return (
            self.weights_bytes
            + self.rope_cache_bytes
            + self.activation_peak_bytes
            + self.non_torch_bytes
            + self.cuda_graph_bytes
            + self.sliding_reserve_bytes
        )

    @property
    def unused_bytes(self) -> int:
        """Left over: less than one block. Negative where the model does not fit."""
        return self.budget_bytes - self.taken_bytes - self.kv_blocks * self.block_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens of context that fit at once."""
        return self.kv_blocks * self.block_size

    def terms(self) -> list[tuple[str, int, str]]:
        """(name, bytes, how it was computed), in the order in which they are subtracted."""
        return [
            ("GPU memory", self.gpu_memory_bytes, "what the driver shows a process"),
            ("budget", self.budget_bytes, f"memory fraction {self.memory_fraction:g}"),
            ("weights", self.weights_bytes, f"fullest GPU of pipeline stage {self.stage}"),
            ("rope cache", self.rope_cache_bytes, "max_pos x rotary dimensions, bf16"),
            ("activation peak", self.activation_peak_bytes, "dummy step, then sampling"),
            ("non-torch", self.non_torch_bytes, "kernels, NCCL; measured constant"),
            ("CUDA graphs", self.cuda_graph_bytes, "estimate deducted by the engine"),
            ("sliding windows", self.sliding_reserve_bytes, "window and one step, per sequence"),
            ("KV blocks", self.kv_blocks * self.block_bytes, f"{self.kv_blocks} blocks"),
            ("unused", self.unused_bytes, "less than a block"),
        ]


def kv_capacity(
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
    overheads: MemoryOverheads | None = None,
) -> KvCapacity:
    """KV blocks of one replica, from the GPU that has least room.

    Args:
        dtype: weight format, "auto" for the one the model is published in.
        kv_dtype: "auto" is bf16.
        memory_fraction: vLLM's `gpu_memory_utilization`.
        max_num_batched_tokens, max_num_seqs: the engine's limits of a step.
        block_size: tokens of a block.

    Raises:
        InputError: the model does not fit, by how many GB, and which tp would; a bad argument.
    """
    plan = _Plan(
        model,
        gpu,
        dtype,
        kv_dtype,
        memory_fraction,
        max_num_batched_tokens,
        max_num_seqs,
        block_size,
        overheads or MemoryOverheads(),
    )
    split = parallelism or Parallelism()
    model.check(split)
    capacity = plan.tightest(split)
    if capacity.kv_blocks < 1:
        raise _does_not_fit(plan, split, capacity)
    return capacity


@dataclass(frozen=True)
class _Plan:
    """One request for a capacity; asked again for other splits when it does not fit."""

    model: ModelSpec
    gpu: GpuSpec
    dtype: str
    kv_dtype: str
    memory_fraction: float
    tokens: int
    sequences: int
    block_size: int
    overheads: MemoryOverheads

    def __post_init__(self) -> None:
        counts = (
            ("max_num_batched_tokens", self.tokens),
            ("max_num_seqs", self.sequences),
            ("block_size", self.block_size),
        )
        for name, value in counts:
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}", where=name)
        kv_element_bytes(self.kv_dtype)
        highest = 1 - self.overheads.cuda_context_bytes / self.gpu.memory_bytes
        if not 0 < self.memory_fraction <= highest:
            raise InputError(
                f"memory_fraction must be above 0 and at most {highest:.3f} on {self.gpu.name}, "
                f"found {self.memory_fraction:g}",
                where="memory_fraction",
                help="the CUDA context takes "
                f"{self.overheads.cuda_context_bytes / GB:.2f} GB before the engine starts",
            )

    def tightest(self, split: Parallelism) -> KvCapacity:
        """The capacity of the stage with fewest blocks, the earliest of equals."""
        stages = [self.stage(split, s) for s in range(split.pp)]
        return min(stages, key=lambda c: (c.kv_blocks, c.stage))

    def stage(self, split: Parallelism, stage: int) -> KvCapacity:
        """The capacity of one GPU of pipeline stage *stage*; 0 blocks where it does not fit."""
        m, tp, pp = self.model, split.tp, split.pp
        layers = parameters.stage_layers(m.layers, pp)[stage]
        per_layer = m.kv_bytes_per_layer(self.kv_dtype, tp)
        sliding = -(-m.sliding_layers * layers // m.layers)
        if sliding == layers:
            sliding = 0  # nothing would grow: engines then keep every token's block
        over = self.overheads
        without = KvCapacity(
            gpu_memory_bytes=self.gpu.memory_bytes,
            memory_fraction=self.memory_fraction,
            budget_bytes=int(self.gpu.memory_bytes * self.memory_fraction),
            weights_bytes=parameters.stage_bytes(m, m.format(self.dtype), split, stage),
            rope_cache_bytes=m.max_pos * (m.qk_rope or m.head_dim) * HALF_BYTES,
            activation_peak_bytes=self._activation_peak(tp, last=stage == pp - 1),
            non_torch_bytes=over.non_torch_bytes if split.gpus == 1 else over.non_torch_bytes_tp,
            cuda_graph_bytes=over.cuda_graph_bytes,
            sliding_reserve_bytes=0,
            kv_bytes_per_token=per_layer * (layers - sliding),
            block_size=self.block_size,
            kv_blocks=0,
            cuda_context_bytes=over.cuda_context_bytes,
            stage=stage,
        )
        room = max(0, without.budget_bytes - without.taken_bytes)
        reserve = min(self._sliding_tokens() * per_layer * sliding, room * sliding // layers)
        blocks = (room - reserve) // without.block_bytes
        return replace(without, sliding_reserve_bytes=reserve, kv_blocks=blocks)

    def _sliding_tokens(self) -> int:
        """Tokens that sliding-window layers keep: a window and a block a sequence, and one step."""
        window = self.model.sliding_window
        return self.sequences * (window + self.block_size) + self.tokens if window else 0

    def _activation_peak(self, tp: int, *, last: bool) -> int:
        """Peak of the dummy run: the hidden states it returns, and the larger of two transients.

        A layer holds residual and input, then attention (queries, keys, values, output) or a
        feed-forward (gate, up, their product; for experts top_k times, with each one's output).
        Sampling, on the last stage only, holds `max_num_seqs` rows of logits.
        """
        m = self.model
        attention = 2 * (m.heads // tp + parameters.kv_heads_per_gpu(m, tp)) * m.head_dim
        dense = 3 * m.ffn // tp
        routed = m.top_k * (3 * m.moe_ffn // tp + m.hidden)
        widest = max(attention, dense, routed + 3 * m.shared_experts * m.moe_ffn // tp)
        layer = self.tokens * (2 * m.hidden + widest) * HALF_BYTES
        returned = self.tokens * m.hidden * HALF_BYTES
        if not last:
            return returned + layer
        rows = min(self.sequences, self.tokens)
        returned += rows * m.hidden * HALF_BYTES
        logits = rows * m.vocab * self.overheads.sampler_bytes_per_logit
        # a vision tower is profiled on as many image tokens as a step may hold
        return returned + max(layer, vision.peak_bytes(m, self.tokens), round(logits))


def _does_not_fit(plan: _Plan, split: Parallelism, capacity: KvCapacity) -> InputError:
    need = capacity.taken_bytes + capacity.block_bytes
    short = (need - capacity.budget_bytes) / GB
    fitting = [
        tp
        for tp in range(split.tp + 1, plan.gpu.node_gpus + 1)
        if parameters.divides(plan.model, tp)
        and parameters.shares_experts(plan.model, replace(split, tp=tp))
        and plan.tightest(replace(split, tp=tp)).kv_blocks > 0
    ]
    advice = (
        f"tp {fitting[0]} fits"
        if fitting
        else f"no tp up to the {plan.gpu.node_gpus} GPUs of a node fits: raise pp, or choose a "
        "smaller dtype"
    )
    return InputError(
        f"{plan.model.name} ({plan.model.format(plan.dtype).name}) does not fit on {plan.gpu.name} "
        f"with tp {split.tp}, pp {split.pp}: {short:.1f} GB short. A GPU needs "
        f"{capacity.weights_bytes / GB:.1f} GB for weights and "
        f"{(need - capacity.weights_bytes) / GB:.1f} GB beside them, of "
        f"{capacity.budget_bytes / GB:.1f} GB",
        where="tp",
        help=advice,
    )
