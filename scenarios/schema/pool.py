"""The ``cluster:`` of a scenario: pools of replicas, each with its GPU, model and engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from ...policies.errors import InputError
from ...sim.cost.dtypes import kv_element_bytes, weight_format
from ...sim.cost.memory import MemoryOverheads
from ...sim.cost.overheads import Overheads
from ..explain import PartError
from .base import Spec
from .engine import Engine, EngineSpec
from .named import Catalogued
from .presets import PRESETS
from .sglang import SglangSpec


def _weights(dtype: str) -> str:
    if dtype != "auto":
        weight_format(dtype)
    return dtype


def _kv(dtype: str) -> str:
    kv_element_bytes(dtype)
    return dtype


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class HostLink(Spec):
    """What carries KV between a GPU and its host's memory."""

    gbytes_per_s: float | None = Field(
        default=None, gt=0, le=1e6, description="of a GPU; its PCIe rate if left out"
    )
    latency_us: float = Field(
        default=10.0, ge=0, le=1e9, description="of a transfer, beside its bytes"
    )


class OffloadSpec(HostLink):
    """KV blocks kept in host memory as well: written through, the least recently used leave."""

    blocks: int = Field(ge=1, le=10**9, description="how many the host holds for each replica")


class SwapSpec(HostLink):
    """Host memory for the KV of preempted requests (vLLM's --swap-space)."""

    space_gib: float = Field(default=4.0, gt=0, le=1e6, description="for each GPU, in GiB")


class PoolSpec(Spec):
    """Replicas of one kind."""

    name: str = Field(
        default="serve", pattern=NAME, max_length=40, description="how reports call it"
    )
    role: Literal["both", "prefill", "decode", "encode"] = Field(
        default="both", description="which part of a request it serves; encode: its images"
    )
    replicas: int = Field(
        default=1, ge=1, le=4096, description="how many engines; each has tp × pp GPUs"
    )
    gpu: Annotated[str, Catalogued("gpu")] = Field(
        description="a name from `infersim gpus`, or a YAML file of yours"
    )
    model: Annotated[str, Catalogued("model")] = Field(
        description="a name from `infersim models`, or a YAML file of yours"
    )
    dtype: Annotated[str, AfterValidator(_weights)] = Field(
        default="auto", description="of the weights: auto is the format the model is published in"
    )
    kv_dtype: Annotated[str, AfterValidator(_kv)] = Field(
        default="auto", description="of the KV cache: auto is bf16"
    )
    tp: int = Field(default=1, ge=1, le=1024, description="tensor-parallel GPUs of one replica")
    pp: int = Field(default=1, ge=1, le=128, description="pipeline stages of one replica")
    dp: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="data-parallel ranks of one replica: each has tp × pp GPUs, its own scheduler "
        "and KV, and they share the experts and step together",
    )
    expert_parallel: bool = Field(
        default=False,
        description="each of the tp × dp GPUs keeps whole experts, not a slice of every one",
    )
    engine: Engine = Field(
        default=EngineSpec(), description="a preset, or one and what differs from it"
    )
    block_size: int = Field(
        default=16, ge=1, le=4096, description="tokens in a KV block; other presets have their own"
    )
    kv_blocks: int | Literal["unlimited"] | None = Field(
        default=None, description="KV blocks of a replica; computed from the memory when left out"
    )
    memory_fraction: float = Field(
        default=0.9, gt=0, le=1, description="share of the GPU's memory that the engine may use"
    )
    memory_overheads: MemoryOverheads = Field(
        default=MemoryOverheads(), description="what takes memory beside weights and KV"
    )
    profile: str | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="directory of measured step times, see `infersim calibrate`; the datasheet "
        "roofline when left out",
    )
    overheads: Overheads = Field(
        default=Overheads(), description="efficiencies and fixed times of the roofline"
    )
    offload: OffloadSpec | None = Field(
        default=None, description="a tier for KV in host memory; none when left out"
    )
    swap: SwapSpec | None = Field(
        default=None,
        description="room for the KV of preempted requests, where a scheduler swaps it out",
    )

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a block size that is the preset's: another engine in its place has its own."""
        out: dict[str, Any] = handler(self)
        if "block_size" not in self.model_fields_set:
            del out["block_size"]
        return out

    @model_validator(mode="after")
    def _page(self) -> PoolSpec:
        """The preset's blocks; SGLang's pages are blocks, of a token if nothing says otherwise."""
        if isinstance(self.engine, SglangSpec):
            given = self.block_size if "block_size" in self.model_fields_set else None
            size = self.engine.page_size or given or 1
            if given not in (None, size):
                message = f"the engine's page_size is {size}, and block_size says {given}"
                raise PartError(InputError(message, help="give one of them"), "block_size")
            object.__setattr__(self, "block_size", size)
        elif "block_size" not in self.model_fields_set:
            object.__setattr__(self, "block_size", PRESETS[self.engine.preset].block_size)
        return self


class PoolsSpec(Spec):
    """A cluster of several pools."""

    pools: tuple[PoolSpec, ...] = Field(description="in any order")

    @model_validator(mode="after")
    def _fit(self) -> PoolsSpec:
        if not self.pools:
            raise PartError(InputError("a cluster needs at least one pool"), "pools")
        seen: set[str] = set()
        for i, pool in enumerate(self.pools):
            if pool.name in seen:
                raise PartError(InputError(f'two pools are named "{pool.name}"'), "pools", i)
            seen.add(pool.name)
        return self


def _shape(value: Any) -> str:
    has_pools = isinstance(value, PoolsSpec) or (isinstance(value, dict) and "pools" in value)
    return "<pools>" if has_pools else "<pool>"


Cluster = Annotated[
    Annotated[PoolSpec, Tag("<pool>")] | Annotated[PoolsSpec, Tag("<pools>")],
    Discriminator(_shape),
]
