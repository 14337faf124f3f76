"""What the executor is told, in the shapes that the simulator's configuration has as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ...policies.disaggregation.base import Disaggregation
from ...policies.errors import InputError
from ...policies.eviction.base import Eviction
from ...policies.routing.base import Router
from ...policies.scheduling.base import Order, Scheduler
from ...policies.types import Picoseconds
from ...sim.cost.base import StepCost
from ...sim.state.config import EngineLimits, OffloadLimits


class PoolLike(Protocol):
    """Replicas of one kind; see `sim.engine.config.PoolConfig` for each field."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def replicas(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def limits(self) -> EngineLimits: ...
    @property
    def cost(self) -> StepCost: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    @property
    def order(self) -> Order | None: ...
    @property
    def model(self) -> str: ...
    @property
    def offload(self) -> OffloadLimits | None: ...
    def make_scheduler(self) -> Scheduler: ...
    def make_eviction(self) -> Eviction: ...


class LinkLike(Protocol):
    """A link that carries one transfer at a time."""

    @property
    def latency_ps(self) -> Picoseconds: ...
    @property
    def bytes_per_s(self) -> int: ...


class ClusterLike(Protocol):
    """A cluster and what decides in it; see `sim.engine.config.ClusterConfig`."""

    @property
    def pools(self) -> Sequence[PoolLike]: ...
    @property
    def routing(self) -> Router: ...
    @property
    def disaggregation(self) -> Disaggregation: ...
    @property
    def kv_link(self) -> LinkLike | None: ...
    @property
    def signal_age_ps(self) -> Picoseconds: ...


class LimitsLike(Protocol):
    """When a run takes no more work."""

    @property
    def requests(self) -> int | None: ...
    @property
    def duration_ps(self) -> Picoseconds | None: ...


def check(config: ClusterLike) -> None:
    """Refuse what the executor does not do.

    Raises:
        InputError: data-parallel ranks, speculation, or KV without end.
    """
    for pool in config.pools:
        where = f"cluster pool {pool.name}"
        if pool.ranks > 1:
            raise InputError(
                f"the executor runs one scheduler a replica, found {pool.ranks} ranks", where=where
            )
        if pool.limits.num_spec_tokens:
            raise InputError("the executor does not speculate", where=where)
