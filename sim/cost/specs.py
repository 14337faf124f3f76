"""What a step costs on: the dimensions of models, GPUs and links, and how a model is split."""

from __future__ import annotations

from dataclasses import dataclass

from ...policies.errors import InputError
from . import parameters
from .dtypes import WeightFormat, kv_element_bytes, weight_format


@dataclass(frozen=True)
class Parallelism:
    """How one replica is spread over GPUs: *tp* share every layer, *pp* stages share the layers.

    Attributes:
        dp: ranks of tp GPUs with schedulers, attention and KV of their own, which share the
            experts of every layer: one tensor-parallel group of tp * dp GPUs (as in vLLM).
        expert_parallel: whole experts go to those GPUs, instead of a slice of each.

    Raises:
        InputError: a degree below 1.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    expert_parallel: bool = False

    def __post_init__(self) -> None:
        for name, degree in (("tp", self.tp), ("pp", self.pp), ("dp", self.dp)):
            if degree < 1:
                raise InputError(f"{name} must be at least 1, found {degree}", where=name)

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tp * self.pp * self.dp

    @property
    def expert_gpus(self) -> int:
        """GPUs that share the experts of a layer."""
        return self.tp * self.dp


@dataclass(frozen=True)
class LinkSpec:
    """A connection between two ends.

    Attributes:
        latency_s: time of an empty message.
        bandwidth_bytes_per_s: per direction.
        confidence: "high", "medium" or "low".
    """

    name: str
    latency_s: float
    bandwidth_bytes_per_s: float
    confidence: str = "low"
    source: str = ""


@dataclass(frozen=True)
class GpuSpec:
    """An accelerator, from its datasheet unless a field says measured. Dense figures, never sparse.

    Attributes:
        memory_bytes: what the driver shows a process (torch `total_memory`), which is less than
            the name on the box; engines take their share of this.
        memory_gb: the number on the box.
        bf16_flops, fp8_flops, fp4_flops, int8_ops: operations per second; 0 where it has none.
        memory_bytes_per_s: datasheet bandwidth of its memory.
        scaleup_bytes_per_s: per direction and GPU, to the others of its node (NVLink, xGMI, PCIe).
        pcie_bytes_per_s: per direction, to the host.
        nic_bytes_per_s: per direction and GPU, to other nodes.
        node_gpus: GPUs that the scale-up link joins.
        measured_bf16_flops, measured_copy_bytes_per_s: read on a real one; 0 where nobody did.
        confidence: "high", "medium" or "low".
    """

    name: str
    memory_bytes: int
    bf16_flops: float
    memory_bytes_per_s: float
    scaleup_bytes_per_s: float
    pcie_bytes_per_s: float
    nic_bytes_per_s: float
    node_gpus: int = 8
    fp8_flops: float = 0.0
    fp4_flops: float = 0.0
    int8_ops: float = 0.0
    memory_gb: float = 0.0
    memory_type: str = ""
    vendor: str = ""
    arch: str = ""
    compute_capability: str = ""
    form: str = ""
    sms: int = 0
    l2_bytes: int = 0
    tdp_w: float = 0.0
    measured_bf16_flops: float = 0.0
    measured_copy_bytes_per_s: float = 0.0
    confidence: str = "low"
    source: str = ""

    def flops(self, compute: str) -> float:
        """Datasheet operations per second in *compute*; bf16's where it has no such units."""
        rates = {"fp8": self.fp8_flops, "fp4": self.fp4_flops, "int8": self.int8_ops}
        return rates.get(compute, 0.0) or self.bf16_flops


@dataclass(frozen=True)
class VisionSpec:
    """The vision transformer before a language model.

    Attributes:
        gated: three matrices in its feed-forward, else two.
        merge: patches per side that become one token; merge**2 patches a token.
        patch: pixels per side of a patch.
        mergers: how many projections to the language model it has (Qwen3-VL: 1 + deepstack).
        positions: learned position embeddings.
        window: patches per side of a window, beyond which no patch is attended to; 0: no windows.
        full_layers: with windows, how many layers attend to the whole image nevertheless: the last
            of every layers / full_layers.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    gated: bool = False
    merge: int = 2
    patch: int = 14
    mergers: int = 1
    positions: int = 0
    window: int = 0
    full_layers: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """The dimensions of a decoder, under the names of its config.json where they are short.

    Attributes:
        ffn: width of the dense feed-forward; 0 where every layer is a mixture of experts.
        sliding_window: tokens that a sliding-window layer attends to; 0 for none.
        sliding_layers: how many layers have it (gpt-oss: half of them, alternating).
        experts, top_k, shared_experts, moe_ffn: 0 for a dense model.
        first_dense_layers: leading layers without experts.
        q_lora, kv_lora, qk_nope, qk_rope, v_head: multi-head latent attention; 0 for GQA.
        index_heads, index_head_dim, index_top_k: a lightning indexer picks the `index_top_k` tokens
            that attention reads (DeepSeek sparse attention); 0 for none.
        native_dtype: the format the model is published in; what dtype "auto" means.

    Raises:
        InputError: dimensions that contradict each other.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_pos: int
    ffn: int = 0
    tie_embed: bool = False
    qk_norm: bool = False
    attn_bias: bool = False
    sliding_window: int = 0
    sliding_layers: int = 0
    experts: int = 0
    top_k: int = 0
    shared_experts: int = 0
    moe_ffn: int = 0
    first_dense_layers: int = 0
    q_lora: int = 0
    kv_lora: int = 0
    qk_nope: int = 0
    qk_rope: int = 0
    v_head: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_top_k: int = 0
    rope_theta: float = 0.0
    architecture: str = ""
    native_dtype: str = "bf16"
    vision: VisionSpec | None = None
    source: str = ""

    def __post_init__(self) -> None:
        weight_format(self.native_dtype)
        problem = parameters.contradiction(self)
        if problem:
            raise InputError(problem, where=f"model {self.name}")

    @property
    def moe_layers(self) -> int:
        """Layers that are a mixture of experts."""
        return self.layers - self.first_dense_layers if self.experts else 0

    @property
    def is_mla(self) -> bool:
        """Whether attention keeps one latent a token instead of keys and values."""
        return self.kv_lora > 0

    @property
    def parameters(self) -> int:
        """All weights of the language model; a vision tower counts apart."""
        return parameters.count(self)

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets: all but the experts it is not routed to."""
        idle = (self.experts - self.top_k) * self.moe_layers
        return self.parameters - idle * 3 * self.hidden * self.moe_ffn

    @property
    def vision_parameters(self) -> int:
        """Weights of the vision tower; 0 without one."""
        return parameters.count_vision(self)

    def format(self, dtype: str) -> WeightFormat:
        """The weight format that *dtype* names, "auto" being the published one."""
        return weight_format(self.native_dtype if dtype == "auto" else dtype)

    def weight_bytes(self, dtype: str = "auto", tp: int = 1, pp: int = 1) -> int:
        """Bytes of weights on the fullest GPU of a replica."""
        split = Parallelism(tp, pp)
        self.check(split)
        return max(parameters.stage_bytes(self, self.format(dtype), split, s) for s in range(pp))

    def kv_bytes_per_layer(self, kv_dtype: str = "auto", tp: int = 1) -> int:
        """KV bytes of one token in one layer on one GPU.

        GQA: keys and values of kv_heads / tp heads, never below one. MLA: the latent and the shared
        rope key, whole on every GPU. An indexer adds its key in fp8 with a 4-byte scale per 128.
        """
        element = kv_element_bytes(kv_dtype)
        if self.is_mla:
            scales = 4 * -(-self.index_head_dim // 128)
            return (self.kv_lora + self.qk_rope) * element + self.index_head_dim + scales
        return 2 * parameters.kv_heads_per_gpu(self, tp) * self.head_dim * element

    def kv_bytes_per_token(self, kv_dtype: str = "auto", tp: int = 1, pp: int = 1) -> int:
        """KV bytes that one token writes, on the GPU with most layers, over all of its layers."""
        return self.kv_bytes_per_layer(kv_dtype, tp) * max(parameters.stage_layers(self.layers, pp))

    def check(self, parallelism: Parallelism) -> None:
        """Refuse a split that engines refuse.

        Raises:
            InputError: heads, KV heads or feed-forward do not divide, or too many stages.
        """
        if not parameters.divides(self, parallelism.tp):
            allowed = [str(t) for t in range(1, 129) if parameters.divides(self, t)]
            raise InputError(
                f"{self.name} cannot be split over tp {parallelism.tp}: it has {self.heads} heads "
                f"and {self.kv_heads} KV heads",
                where="tp",
                help=f"allowed: {', '.join(allowed)}",
            )
        if parallelism.dp > 1 and not self.experts:
            raise InputError(
                f"{self.name} has no experts that data-parallel ranks could share",
                where="dp",
                help="ranks of a dense model never wait for each other: use replicas",
            )
        if parallelism.expert_parallel and not self.experts:
            raise InputError(f"{self.name} has no experts", where="expert_parallel")
        if not parameters.shares_experts(self, parallelism):
            parts = (
                f"{self.experts} experts"
                if parallelism.expert_parallel
                else f"experts of {self.moe_ffn} columns"
            )
            raise InputError(
                f"{self.name} has {parts}, which tp x dp = {parallelism.expert_gpus} GPUs cannot "
                "share evenly",
                where="dp",
            )
        if parallelism.pp > self.layers:
            raise InputError(
                f"{self.name} has {self.layers} layers, too few for pp {parallelism.pp}", where="pp"
            )
