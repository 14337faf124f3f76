"""A pool that encodes images: the vision tower alone, and no KV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..policies.errors import InputError
from ..sim.cost.vision import encoder_capacity
from ..sim.state.config import EngineLimits, PoolConfig
from .explain import PartError
from .pools import GB, Capacity, Pool
from .schema.pool import PoolSpec
from .schema.scenario import PoliciesSpec, Scenario

#: keys of an engine that an encoder heeds
HEEDED = ("preset", "max_num_batched_tokens", "encoder_budget", "encoder_cache_size")


def pool_of(spec: PoolSpec, folders: Sequence[Path]) -> Pool:
    """A pool with its catalogue entries looked up.

    Raises:
        PartError: the model does not fit, or cannot be split like that.
    """
    return EncoderPool(spec, folders) if spec.role == "encode" else Pool(spec, folders)


class EncoderPool(Pool):
    """A pool with role: encode."""

    def _capacity(self) -> Capacity:
        spec, engine = self.spec, self.spec.engine
        _refuse_others(spec)
        self.found = encoder_capacity(
            self.model,
            self.gpu,
            spec.tp,
            memory_fraction=spec.memory_fraction,
            step_tokens=engine.encoder_budget or engine.max_num_batched_tokens,
            overheads=spec.memory_overheads,
        )
        cache = engine.encoder_cache_size
        if cache > self.found.cache_tokens:
            raise InputError(
                f"outputs for {cache:,} image tokens do not fit: the memory holds "
                f"{self.found.cache_tokens:,}",
                where="engine.encoder_cache_size",
            )
        return Capacity(1, self.model.max_pos, None, "", "no KV")  # none of it is ever taken

    @property
    def cache_tokens(self) -> int:
        """Image tokens whose output an encoder keeps."""
        return self.spec.engine.encoder_cache_size or self.found.cache_tokens

    def config(self, policies: PoliciesSpec) -> PoolConfig:
        """What the encoders are told; of a pool's engine, their budget and their cache."""
        base, engine = super().config(policies), self.spec.engine
        limits = EngineLimits(
            kv_blocks=base.limits.kv_blocks,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            encoder_budget=engine.encoder_budget,
            encoder_cache_size=self.cache_tokens,
        )
        return replace(base, limits=limits)

    def row(self) -> dict[str, Any]:
        """For the report: what the pool is, and where its memory goes."""
        spec, found = self.spec, self.found
        return {
            "name": spec.name,
            "role": spec.role,
            "replicas": spec.replicas,
            "gpu": self.gpu.name,
            "model": self.model.name,
            "tp": spec.tp,
            "budget_bytes": found.budget_bytes,
            "weights_bytes": found.weights_bytes,
            "activation_peak_bytes": found.activation_peak_bytes,
            "non_torch_bytes": found.non_torch_bytes,
            "encoder_cache_tokens": self.cache_tokens,
        }

    def line(self) -> str:
        """The capacity in one line."""
        spec, found = self.spec, self.found
        return (
            f"{spec.name}: {spec.replicas} × the encoder of {self.model.name} on {self.gpu.name}, "
            f"tp {spec.tp}: outputs for {self.cache_tokens:,} image tokens each "
            f"({found.budget_bytes / GB:.2f} GB − weights {found.weights_bytes / GB:.2f} − "
            f"activation peak {found.activation_peak_bytes / GB:.2f} − "
            f"non-torch {found.non_torch_bytes / GB:.2f})"
        )


def check_encoders(scenario: Scenario, found: Sequence[Pool]) -> None:
    """Refuse encoders that nobody uses, and what encoders need and is not there.

    Raises:
        PartError: the pools, the link or the policy do not go together.
    """
    models = {pool.model.name for pool in found if pool.spec.role != "encode"}
    encoders = [(i, pool) for i, pool in enumerate(found) if pool.spec.role == "encode"]
    if not encoders:
        return
    if not models:
        error = InputError("nobody computes prompts", help="add a pool with role: both")
        raise PartError(error, "cluster", "pools")
    for i, pool in encoders:
        if pool.model.name not in models:
            error = InputError(
                f"no pool serves {pool.model.name}, so its encoder is of no use",
                help=f"served: {', '.join(sorted(models))}",
            )
            raise PartError(error, "cluster", "pools", i, "model")
    if scenario.links.embeddings is None:
        error = InputError(
            "encoders need a link for the embeddings", help="e.g. links: {embeddings: nvlink4}"
        )
        raise PartError(error, "links")
    policy = scenario.policies.disaggregation
    if policy is not None and not getattr(policy.policy, "encodes", False):
        error = InputError(
            f"a pool has role: encode, and {policy.name} sends no images there",
            help="disaggregation: encoder-split does",
        )
        raise PartError(error, "policies", "disaggregation")


def _refuse_others(spec: PoolSpec) -> None:
    """Refuse what an encoder has no use for."""
    engine, fields = spec.engine, type(spec.engine).model_fields
    if spec.engine.preset != "vllm-v1":
        raise InputError(
            f"an encode pool has the engine vllm-v1, found {spec.engine.preset}", where="engine"
        )
    given = [
        key for key in ("kv_blocks", "offload", "swap") if getattr(spec, key, None) is not None
    ]
    given += [key for key in ("pp", "dp") if getattr(spec, key) != 1]
    given += [
        f"engine.{key}"
        for key, field in fields.items()
        if key not in HEEDED and getattr(engine, key) != field.default
    ]
    if given:
        raise InputError(
            f"an encode pool has no KV, no pipeline and no ranks: {given[0]} would do nothing",
            where=given[0],
            help="leave it out",
        )
