"""One pool of a scenario → its KV capacity, its engine's limits and its policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..policies.errors import InputError
from ..sim.cost.memory import KvCapacity, kv_capacity
from ..sim.cost.specs import GpuSpec, ModelSpec, Parallelism
from ..sim.cost.tables import TableCost
from ..sim.cost.vision import embedding_bytes_per_token
from ..sim.state.config import EngineLimits, OffloadLimits, PoolConfig
from .choice import Choice, by_rank, takes
from .explain import PartError
from .profiles import cost_of, kv_blocks, profile_of
from .schema.engine import EngineSpec
from .schema.named import catalogued
from .schema.pool import HostLink, PoolSpec, SwapSpec
from .schema.presets import PRESETS
from .schema.scenario import PoliciesSpec
from .schema.sglang import SglangSpec

UNLIMITED_BLOCKS = 1 << 40
UNLIMITED_TOKENS = 1 << 40
GB, GIB = 1e9, 2**30
PS_PER_US = 1e6
SGLANG_EXTRA_BLOCKS = 2  #: these and a token SGLang adds to a request's need before it admits it


@dataclass(frozen=True, slots=True)
class Capacity:
    """The KV of one replica.

    Attributes:
        blocks: usable ones; vLLM reserves one more, which `computed` and `kv_blocks:` include.
        max_model_len: context limit in tokens, cut to what the KV holds.
        computed: where the memory goes; None where the scenario gives kv_blocks.
        note: what the reader must know; "" for nothing.
        given: where the blocks come from if they are not computed.
    """

    blocks: int
    max_model_len: int
    computed: KvCapacity | None
    note: str
    given: str = "given"


class Pool:
    """A pool with its catalogue entries looked up.

    Raises:
        PartError: the model does not fit, or cannot be split like that.
    """

    def __init__(self, spec: PoolSpec, folders: Sequence[Path]) -> None:
        self.spec = spec
        self.gpu: GpuSpec = catalogued("gpu", spec.gpu, folders)
        self.model: ModelSpec = catalogued("model", spec.model, folders)
        self.split = Parallelism(spec.tp, spec.pp, spec.dp, spec.expert_parallel)
        try:
            self.profile = profile_of(spec, folders)
            self.cost = cost_of(spec, self.model, self.gpu, self.profile)
            self.capacity = self._capacity()
            self._offload()
        except InputError as error:
            raise PartError(error, error.where) from None

    @property
    def cost_notes(self) -> list[str]:
        """What the reader must know about the step times."""
        return self.cost.notes if isinstance(self.cost, TableCost) else []

    @property
    def prices_adapters(self) -> bool:
        """Whether steps take longer for requests with a LoRA adapter."""
        return isinstance(self.cost, TableCost) and self.cost.parts.lora is not None

    @property
    def kv_bytes_per_token(self) -> int:
        """KV bytes of a token, all GPUs of a replica together and nothing counted twice."""
        return self.model.kv_bytes_per_token(self.spec.kv_dtype)

    def config(self, policies: PoliciesSpec) -> PoolConfig:
        """What the engine is told."""
        spec, engine = self.spec, self.spec.engine
        self._check_context(policies)
        preset = PRESETS[engine.preset].policies
        order = policies.order or Choice("order", preset["order"])
        ranked = policies.scheduling is not None and by_rank(policies.scheduling.policy)
        given = order if ranked or order.name != preset["order"] else None
        eviction = policies.eviction or Choice("eviction", preset["eviction"])
        return PoolConfig(
            name=spec.name,
            role=spec.role,
            replicas=spec.replicas,
            limits=EngineLimits(
                kv_blocks=self.capacity.blocks,
                block_size=spec.block_size,
                max_model_len=self.capacity.max_model_len,
                max_num_batched_tokens=self._step_tokens(policies),
                max_num_seqs=engine.max_num_seqs,
                prefix_caching=engine.enable_prefix_caching,
                prefix_index=engine.prefix_index,
                async_scheduling=engine.async_scheduling,
                max_loras=engine.max_loras,
                encoder_budget=engine.encoder_budget,
                encoder_cache_size=engine.encoder_cache_size,
                grammars_apart=not isinstance(engine, EngineSpec),
            ),
            cost=self.cost,
            make_scheduler=lambda: self._scheduler(policies),
            make_eviction=eviction.build,
            kv_bytes_per_token=self.kv_bytes_per_token,
            make_order=None if given is None else lambda: _order(given),
            model=spec.model,
            ranks=spec.dp,
            offload=self._offload(),
            swap=self.swap(policies),
            layers=self.model.layers,
            embedding_bytes_per_token=embedding_bytes_per_token(self.model),
        )

    def _check_context(self, policies: PoliciesSpec) -> None:
        """SGLang's scheduler under another engine, whose context limit it may never admit."""
        choice, spec = _scheduling(policies, self.spec), self.spec
        most = self.capacity.blocks * spec.block_size - SGLANG_EXTRA_BLOCKS * spec.block_size - 1
        longest = self.capacity.max_model_len
        chunk = choice.params.get("chunked_prefill_size")
        if chunk is not None and chunk < spec.block_size:
            message = f"chunked_prefill_size {chunk} holds no block of {spec.block_size} tokens"
            given = policies.scheduling is not None
            where = "policies.scheduling" if given else "engine.chunked_prefill_size"
            raise InputError(message, where=where, help=f"{spec.block_size}, or more")
        if choice.name == "sglang" and longest > most:
            key = getattr(spec.engine, "context_key", "max_model_len")
            raise InputError(
                f"scheduling {choice.name} admits requests of up to {most:,} tokens to this KV, "
                f"and the context limit is {longest:,}",
                where="policies.scheduling",
                help=f"engine.{key}: {most}, or less",
            )

    def _step_tokens(self, policies: PoliciesSpec) -> int:
        """The token budget of a step; a scheduler with budgets of its own has no other."""
        own = getattr(_scheduling(policies, self.spec).policy, "budgets", False)
        return UNLIMITED_TOKENS if own else self.spec.engine.max_num_batched_tokens

    def _offload(self) -> OffloadLimits | None:
        offload = self.spec.offload
        if offload is None:
            return None
        if reason := _no_offload(self.spec):
            raise InputError(reason, where="offload")
        return self._host("offload", offload, offload.blocks)

    def swap(self, policies: PoliciesSpec) -> OffloadLimits | None:
        """Room in host memory for the KV of preempted requests; None where none is swapped.

        Raises:
            PartError: there is none, or nobody would use it.
        """
        try:
            return self._swap(policies)
        except InputError as error:
            raise PartError(error, error.where) from None

    def _swap(self, policies: PoliciesSpec) -> OffloadLimits | None:
        given, spec = self.spec.swap, self.spec
        if _scheduling(policies, spec).params.get("preemption") != "swap":
            if given is None:
                return None
            raise InputError(
                "nothing is swapped: the scheduler preempts by recompute",
                where="swap",
                help="leave it out, or set preemption_mode (elsewhere preemption) to swap",
            )
        swap = given or SwapSpec()
        if reason := _no_swap(spec):
            raise InputError(reason, where="swap", help="preempt by recompute")
        blocks = int(swap.space_gib * GIB) // (spec.block_size * self._kv_bytes_per_gpu)
        if not blocks:
            raise InputError(
                f"{swap.space_gib:g} GiB of swap space hold no KV block",
                where="swap.space_gib",
                help=f"one takes {spec.block_size * self._kv_bytes_per_gpu:,} bytes of each GPU",
            )
        return self._host("swap", swap, blocks)

    @property
    def _kv_bytes_per_gpu(self) -> int:
        """KV bytes of a token on the GPU that holds most of it."""
        return self.model.kv_bytes_per_token(self.spec.kv_dtype, self.split.tp, self.split.pp)

    def _host(self, key: str, link: HostLink, blocks: int) -> OffloadLimits:
        """Host memory for *blocks* blocks of a replica."""
        rate = self.gpu.pcie_bytes_per_s
        if link.gbytes_per_s is not None:
            rate = link.gbytes_per_s * GB
        if rate <= 0:
            raise InputError(
                f"{self.gpu.name} has no PCIe rate", where=key, help=f"give {key}.gbytes_per_s"
            )
        # every GPU has a link of its own and carries its part; the largest part decides
        rate *= self.kv_bytes_per_token / self._kv_bytes_per_gpu
        return OffloadLimits(blocks, round(link.latency_us * PS_PER_US), round(rate))

    def row(self) -> dict[str, Any]:
        """For the report: what the pool is, and where its memory goes."""
        spec, capacity = self.spec, self.capacity
        row: dict[str, Any] = {
            "name": spec.name,
            "role": spec.role,
            "replicas": spec.replicas,
            "gpu": self.gpu.name,
            "model": self.model.name,
            "tp": spec.tp,
            "pp": spec.pp,
            "dp": spec.dp,
            "weights": self.model.format(spec.dtype).name,
            "kv_dtype": "bf16" if spec.kv_dtype == "auto" else spec.kv_dtype,
            "block_size": spec.block_size,
            "kv_blocks": capacity.blocks,
            "kv_tokens": capacity.blocks * spec.block_size,
            "max_model_len": capacity.max_model_len,
            "kv_bytes_per_token": self.kv_bytes_per_token,
        }
        if capacity.computed is None:
            given = "the scenario" if capacity.given == "given" else "the profile"
            return row | {"kv_blocks_from": given}
        terms = {
            f"{name.lower().replace(' ', '_')}_bytes": value
            for name, value, _ in capacity.computed.terms()
            if name != "KV blocks"
        }
        return row | {"kv_blocks_from": "the memory of the fullest GPU", **terms}

    def line(self) -> str:
        """The capacity in one line, every term of it."""
        spec, capacity = self.spec, self.capacity
        what = f"{spec.replicas} × {self.model.name} on {self.gpu.name}, tp {spec.tp} pp {spec.pp}"
        if spec.dp > 1:
            what += f" dp {spec.dp}"
        tokens = capacity.blocks * spec.block_size
        if capacity.blocks >= UNLIMITED_BLOCKS:
            found = "unlimited KV"
        else:
            found = f"{capacity.blocks:,} KV blocks of {spec.block_size} = {tokens:,} tokens each"
        if capacity.computed is None:
            return f"{spec.name}: {what}: {found} ({capacity.given})"
        budget, *rest = capacity.computed.terms()[1:-2]
        minus = "".join(f" − {name} {v / GB:.2f}" for name, v, _ in rest if v)
        share = f"{spec.memory_fraction:g} × {capacity.computed.gpu_memory_bytes / GB:.2f}"
        return f"{spec.name}: {what}: {found} ({budget[1] / GB:.2f} GB = {share}{minus})"

    def _capacity(self) -> Capacity:
        spec = self.spec
        engine = spec.engine
        if spec.kv_blocks == "unlimited":
            return self._limited(UNLIMITED_BLOCKS, None)
        if spec.kv_blocks is not None:
            return self._limited(spec.kv_blocks - self._reserved, None)
        measured, remark = kv_blocks(spec, self.profile)
        if measured is not None:
            return self._limited(measured - self._reserved, None, "as the engine printed")
        computed = kv_capacity(
            self.model,
            self.gpu,
            self.split,
            dtype=spec.dtype,
            kv_dtype=spec.kv_dtype,
            memory_fraction=spec.memory_fraction,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_num_seqs=engine.profiled_seqs,
            block_size=spec.block_size,
            overheads=spec.memory_overheads,
        )
        return self._limited(computed.kv_blocks - self._reserved, computed, remark=remark)

    @property
    def _reserved(self) -> int:
        """Blocks that the engine counts and does not use: vLLM's null block."""
        return 1 if isinstance(self.spec.engine, EngineSpec) else 0

    def _limited(
        self,
        blocks: int,
        computed: KvCapacity | None,
        given: str = "given",
        *,
        remark: str = "",
    ) -> Capacity:
        """Cut the context limit to what fits, as vLLM does where it is not given."""
        wanted, fits = self.spec.engine.max_model_len, blocks * self.spec.block_size
        name = getattr(self.spec.engine, "context_key", "max_model_len")
        if isinstance(self.spec.engine, SglangSpec):
            name = "context_length"
            fits -= SGLANG_EXTRA_BLOCKS * self.spec.block_size + 1
        if fits < 2:
            raise InputError("no KV block is left", where="kv_blocks", help="at least 2 are needed")
        if wanted is not None and wanted > fits:
            raise InputError(
                f"one request of {wanted:,} tokens does not fit in {fits:,} tokens of KV",
                where=f"engine.{name}",
                help=f"a smaller {name}, or more memory for KV",
            )
        limit = wanted or self.model.max_pos
        note = remark
        if limit > fits:
            note = f"{remark}; " if remark else ""
            note += (
                f"pool {self.spec.name}: the context limit is {fits:,} tokens, all that its KV "
                f"holds; the model allows {limit:,}"
            )
        return Capacity(blocks, min(limit, fits), computed, note, given)

    def _scheduler(self, policies: PoliciesSpec) -> Any:
        choice = _scheduling(policies, self.spec)
        if not takes(choice.policy, "victim"):
            return choice.build()
        preset = PRESETS[self.spec.engine.preset].policies
        return choice.build(
            victim=(policies.victim or Choice("victim", _victim(policies, preset))).build()
        )


def _scheduling(policies: PoliciesSpec, spec: PoolSpec) -> Choice:
    """The scheduling policy of a pool.

    Raises:
        InputError: it has no use for another policy that the scenario names.
    """
    engine = spec.engine
    chosen = policies.scheduling
    if chosen is None:
        name = getattr(engine, "scheduling", PRESETS[engine.preset].policies["scheduling"])
        chosen = Choice("scheduling", name, engine.scheduler())
    if policies.victim is not None and not takes(chosen.policy, "victim"):
        message = f"{chosen.name} chooses who gives up its KV by itself"
        raise InputError(message, where="policies.victim", help="leave it out")
    line = chosen.params.get("schedule_policy", "fcfs")
    if policies.order is not None and policies.order.name != "fcfs" and line != "fcfs":
        message = (
            f"two orders of the waiting line: {policies.order.name} and schedule_policy {line}"
        )
        raise InputError(message, where="policies.order", help="give one of them")
    return chosen


def _order(choice: Choice) -> Any:
    """The order; one that predicts lengths is told the true ones, which it is to miss."""
    order = choice.build()
    if hasattr(order, "attach"):
        order.attach(attrgetter("output_tokens"))
    return order


def _no_offload(spec: PoolSpec) -> str:
    """Why a pool cannot keep KV in host memory; "" when it can."""
    if spec.role != "both":
        return f"a {spec.role} pool keeps no KV in host memory; role both does"
    if spec.engine.prefix_index == "radix":
        return "a tier in host memory keeps blocks of a hash chain, and this index is a radix tree"
    if not spec.engine.enable_prefix_caching:
        return "a tier needs enable_prefix_caching: its blocks are found by their prefix"
    return ""


def _no_swap(spec: PoolSpec) -> str:
    """Why a pool cannot swap KV to host memory; "" when it can."""
    if spec.role != "both":
        return f"a {spec.role} pool does not swap: its KV comes or goes over a link; role both does"
    if spec.offload is not None:
        return "the host's memory is a tier for KV here (offload), and no swap space beside it"
    return ""


def _victim(policies: PoliciesSpec, preset: dict[str, str]) -> str:
    """vLLM's priority policy also preempts by priority."""
    by_priority = policies.order is not None and policies.order.name == "priority"
    return "lowest-priority" if by_priority else preset.get("victim", "last-admitted")
