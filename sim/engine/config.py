"""Everything that `simulate` is told about a cluster: plain values and ready policy objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...policies.disaggregation.base import Disaggregation
from ...policies.eviction.base import Eviction
from ...policies.routing.base import Router
from ...policies.scheduling.base import Order, Scheduler
from ...policies.types import Picoseconds
from ..cost.base import StepCost
from ..state.config import EngineLimits, OffloadLimits


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Replicas of one kind.

    Attributes:
        role: what they may do.
        ranks: data-parallel schedulers of one replica, which step together; each routes apart.
        limits: their engine; ``limits.max_model_len`` must fit in their KV.
        cost: step times.
        make_scheduler: a fresh policy per replica.
        order: ranks the waiting line; None: first come, first served.
        make_eviction: a fresh policy per replica.
        kv_bytes_per_token: of all GPUs of a replica together (what a link has to carry).
        model: name that requests may ask for; "" serves any.
        offload: a tier in host memory for each replica; None: none.
    """

    name: str
    role: Literal["both", "prefill", "decode"]
    replicas: int
    limits: EngineLimits
    cost: StepCost
    make_scheduler: Callable[[], Scheduler]
    make_eviction: Callable[[], Eviction]
    kv_bytes_per_token: int
    order: Order | None = None
    model: str = ""
    ranks: int = 1
    offload: OffloadLimits | None = None


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """A FIFO link: one transfer at a time."""

    latency_ps: Picoseconds
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A cluster and what decides in it.

    Attributes:
        kv_link: between prefill and decode pools; needed where a placement splits a request.
        signal_age_ps: how often replicas report their load to the router; 0: it sees it live.
    """

    pools: tuple[PoolConfig, ...]
    routing: Router
    disaggregation: Disaggregation
    kv_link: LinkConfig | None = None
    signal_age_ps: Picoseconds = 0


@dataclass(frozen=True, slots=True)
class RunLimits:
    """When a run takes no more work; what is under way is finished."""

    requests: int | None = None
    duration_ps: Picoseconds | None = None


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        arrived, ended: requests.
        expected: how many will arrive; None where nobody knows.
        now_ps: simulated time.
    """

    arrived: int = 0
    ended: int = 0
    expected: int | None = None
    now_ps: Picoseconds = 0


@dataclass(slots=True)
class Effort:
    """What a run cost to simulate. Depends on leaps, so it is no part of the records.

    Attributes:
        steps: engine steps, all replicas.
        leapt_steps: of them, steps inside a leap after its first.
        events: callbacks of replicas.
        wall_s: seconds of real time.
    """

    steps: int = 0
    leapt_steps: int = 0
    events: int = 0
    wall_s: float = 0.0
