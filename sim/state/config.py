"""What a host is told about a cluster: plain values and ready policy objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ...policies.disaggregation.base import Disaggregation
from ...policies.errors import InputError
from ...policies.eviction.base import Eviction
from ...policies.routing.base import Router
from ...policies.scheduling.base import Order, Scheduler
from ...policies.types import Picoseconds
from ..cost.base import StepCost


@dataclass(frozen=True, slots=True)
class OffloadLimits:
    """Host memory for KV: a tier, or swap space.

    Attributes:
        blocks: how many it holds.
        latency_ps, bytes_per_s: of the link to the host, in one direction.
    """

    blocks: int
    latency_ps: int
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine is started with, apart from its policies, under vLLM's names.

    Attributes:
        kv_blocks: usable KV blocks (vLLM's num_gpu_blocks minus its null block).
        block_size: tokens in a block.
        max_model_len: longest prompt plus answer.
        max_num_batched_tokens: token budget of a step.
        max_num_seqs: most sequences in the batch.
        prefix_caching: whether prompts share KV.
        prefix_index: by what they find each other's: vLLM's chained hashes or SGLang's radix tree.
        async_scheduling: plan step i+1 while step i runs.
        max_loras: adapters that may be in the batch at once; 0: no limit.
        num_spec_tokens: draft tokens per decode step; 0: no speculation.
        lookahead_tokens: KV slots that the drafter itself needs (EAGLE: num_spec_tokens).
        encoder_budget: encoder tokens computed per step; 0: no limit.
        encoder_cache_size: encoder outputs kept, in tokens; 0: no limit.
        grammars_apart: requests join the line when their grammar is compiled (SGLang), and do not
            wait for it in the line (vLLM).
        fail_on_load_error: a request whose KV fails to load ends in error instead of recomputing.
    """

    kv_blocks: int
    block_size: int = 16
    max_model_len: int = 131_072
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 256
    prefix_caching: bool = True
    prefix_index: Literal["hash-chain", "radix"] = "hash-chain"
    async_scheduling: bool = True
    max_loras: int = 0
    num_spec_tokens: int = 0
    lookahead_tokens: int = 0
    encoder_budget: int = 0
    encoder_cache_size: int = 0
    fail_on_load_error: bool = False
    grammars_apart: bool = False

    def __post_init__(self) -> None:
        for name in (
            "kv_blocks",
            "block_size",
            "max_model_len",
            "max_num_batched_tokens",
            "max_num_seqs",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "max_loras",
            "num_spec_tokens",
            "lookahead_tokens",
            "encoder_budget",
            "encoder_cache_size",
        ):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Replicas of one kind.

    Attributes:
        role: what they may do.
        ranks: data-parallel schedulers of one replica, which step together; each routes apart.
        limits: their engine; ``limits.max_model_len`` must fit in their KV.
        cost: step times.
        make_scheduler: a fresh policy per replica.
        make_order: a fresh order of the waiting line per replica; None: first come, first served.
        make_eviction: a fresh policy per replica.
        kv_bytes_per_token: of all GPUs of a replica together (what a link has to carry).
        model: name that requests may ask for; "" serves any.
        offload: a tier in host memory for each replica; None: none.
        swap: room in host memory for the KV of preempted requests, for each scheduler of a
            replica; None: none.
        layers: of the model; KV may travel layer by layer.
        embedding_bytes_per_token: of the vision tower's output; 0: it has none.
    """

    name: str
    role: Literal["both", "prefill", "decode", "encode"]
    replicas: int
    limits: EngineLimits
    cost: StepCost
    make_scheduler: Callable[[], Scheduler]
    make_eviction: Callable[[], Eviction]
    kv_bytes_per_token: int
    make_order: Callable[[], Order] | None = None
    model: str = ""
    ranks: int = 1
    offload: OffloadLimits | None = None
    swap: OffloadLimits | None = None
    layers: int = 1
    embedding_bytes_per_token: int = 0

    @property
    def block_bytes(self) -> int:
        """Of a KV block, on all GPUs of a replica together."""
        return self.limits.block_size * self.kv_bytes_per_token

    def order_for(self, scheduler: Scheduler) -> Order | None:
        """The order of the line that *scheduler* fills steps from: its own, if it brings one."""
        own: Order | None = getattr(scheduler, "order", None)
        if own is not None or self.make_order is None:
            return own
        return self.make_order()


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """A FIFO link: one transfer at a time.

    Attributes:
        failure: probability that a transfer, when it has ended, turns out to have failed.
        retries: how often one is sent again before the KV is computed where it was to arrive.
    """

    latency_ps: Picoseconds
    bytes_per_s: int
    failure: float = 0.0
    retries: int = 1


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A cluster and what decides in it.

    Attributes:
        kv_link: between prefill and decode pools; needed where a placement splits a request.
        embedding_link: from encoders; needed where a placement sends images to one.
        signal_age_ps: how often replicas report their load to the router; 0: it sees it live.
        link_rng: decides which transfers fail; needed where `kv_link` fails at all.
        embedding_rng: the same for `embedding_link`.
    """

    pools: tuple[PoolConfig, ...]
    routing: Router
    disaggregation: Disaggregation
    kv_link: LinkConfig | None = None
    signal_age_ps: Picoseconds = 0
    link_rng: Any = None
    embedding_link: LinkConfig | None = None
    embedding_rng: Any = None


@dataclass(frozen=True, slots=True)
class RunLimits:
    """When a run takes no more work; what is under way is finished."""

    requests: int | None = None
    duration_ps: Picoseconds | None = None
