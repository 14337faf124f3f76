"""The whole of a scenario file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from ...policies.errors import InputError
from ..choice import Choice, Family, brings, takes
from ..explain import PartError
from ..workload.spec import WorkloadSpec
from .base import Short, Spec
from .named import Catalogued
from .pool import NAME, Cluster, PoolSpec, PoolsSpec

Seconds = Annotated[float, Field(gt=0, le=1e9)]


class PoliciesSpec(Spec):
    """Which policies decide; each is a name, or a mapping with a name and parameters."""

    scheduling: Annotated[Choice, Family("scheduling")] | None = Field(
        default=None, description="a whole scheduler; the preset's own loop when left out"
    )
    order: Annotated[Choice, Family("order")] | None = Field(
        default=None, description="who is admitted first; the preset's when left out"
    )
    victim: Annotated[Choice, Family("victim")] | None = Field(
        default=None, description="who is preempted first; the preset's when left out"
    )
    eviction: Annotated[Choice, Family("eviction")] | None = Field(
        default=None, description="which cached KV leaves first; the preset's when left out"
    )
    routing: Annotated[Choice, Family("routing")] | None = Field(
        default=None, description="which replica serves a request; round-robin when left out"
    )
    disaggregation: Annotated[Choice, Family("disaggregation")] | None = Field(
        default=None,
        description="where prefill and decode run; by the roles of the pools when left out",
    )


class LinkSpec(Spec):
    """A link with one transfer at a time, first come first served."""

    name: Annotated[str, Catalogued("link")] | None = Field(
        default=None, description="a name from `infersim links`, or a YAML file of yours"
    )
    latency_us: float | None = Field(
        default=None, ge=0, le=1e8, description="microseconds of an empty message"
    )
    gbytes_per_s: float | None = Field(
        default=None, gt=0, le=1e9, description="gigabytes per second in one direction"
    )
    failure: float = Field(
        default=0.0, ge=0, le=1, description="probability that a transfer fails, seen at its end"
    )
    retries: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="how often a failed transfer is sent again; then what it carried is computed "
        "anew, where it was to arrive",
    )

    @model_validator(mode="after")
    def _either(self) -> LinkSpec:
        given = self.latency_us is not None, self.gbytes_per_s is not None
        if any(given) if self.name else not all(given):
            raise InputError(
                "a link has either a name, or latency_us and gbytes_per_s",
                help="names: `infersim links`",
            )
        return self


class LinksSpec(Spec):
    """What connects the pools."""

    kv: Annotated[LinkSpec, Short("name")] | None = Field(
        default=None, description="what KV moves over from prefill to decode"
    )
    embeddings: Annotated[LinkSpec, Short("name")] | None = Field(
        default=None, description="what encoded images move over from encoders to prompts"
    )


class SloSpec(Spec):
    """Limits that a request has to meet to count as goodput."""

    ttft_s: Seconds | None = Field(default=None, description="first token − arrival, seconds")
    tpot_s: Seconds | None = Field(
        default=None, description="seconds per output token after the first"
    )
    e2e_s: Seconds | None = Field(default=None, description="last token − arrival, seconds")


class PricesSpec(Spec):
    """What things cost, for cost per million tokens."""

    gpu_hour_usd: float = Field(gt=0, le=1e6, description="one GPU for one hour, US dollars")


class LimitsSpec(Spec):
    """When the run stops taking new work; what is under way is finished."""

    requests: int | None = Field(
        default=None, ge=1, le=10**9, description="so many requests arrived"
    )
    duration_s: Seconds | None = Field(
        default=None, description="so much simulated time passed, seconds"
    )


class RouterSpec(Spec):
    """What the router knows."""

    signal_age_s: float = Field(
        default=0.0, ge=0, le=3600, description="age of the replicas' reports that it sees, seconds"
    )


class UncertaintySpec(Spec):
    """How far the figures may be off because step times are."""

    samples: int = Field(
        ge=2,
        le=1000,
        description="runs of each cell with perturbed step times; below 20 the ends say little",
    )
    seed: int | None = Field(
        default=None, ge=0, lt=1 << 63, description="of the errors; the scenario's when left out"
    )


class Scenario(Spec):
    """One scenario: a cluster, what its clients do, and what decides."""

    name: str = Field(pattern=NAME, max_length=80, description="names the folder of the run")
    description: str = Field(default="", max_length=4000, description="what the scenario asks")
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="of every random stream")
    cluster: Cluster = Field(description="one pool, or pools: with a list of them")
    links: LinksSpec = Field(default=LinksSpec(), description="what connects the pools")
    workload: WorkloadSpec = Field(description="what clients do")
    policies: PoliciesSpec = Field(default=PoliciesSpec(), description="what decides")
    router: RouterSpec = Field(default=RouterSpec(), description="what the router knows")
    limits: LimitsSpec = Field(default=LimitsSpec(), description="when to stop taking new work")
    warm_up_s: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="requests that arrive before this are not in the metrics",
    )
    slo: SloSpec = Field(default=SloSpec(), description="limits for goodput and for exit code 3")
    prices: PricesSpec | None = Field(default=None, description="what things cost")
    uncertainty: UncertaintySpec | None = Field(
        default=None, description="intervals from the errors of the step times; none if left out"
    )
    compare: dict[str, Any] | None = Field(
        default=None,
        description="lists of values by dotted key, every combination a cell; "
        "or cells: with named cells of {key: value}",
    )

    @model_validator(mode="after")
    def _decided_once(self) -> Scenario:
        """What a scheduler of the user's replaces must not be set beside it."""
        scheduling, victim = self.policies.scheduling, self.policies.victim
        if scheduling is None:
            return self
        for i, pool in enumerate(self.pools):
            defaults = type(pool.engine).model_fields
            for key, name in pool.engine.scheduler_keys.items():
                if getattr(pool.engine, key) != defaults[key].default:
                    place = ("pools", i) if isinstance(self.cluster, PoolsSpec) else ()
                    message = f"{key} would do nothing, as policies.scheduling is given"
                    help = f"policies.scheduling: {{name: …, {name}: …}}, if it has that parameter"
                    error = InputError(message, help=help)
                    raise PartError(error, "cluster", *place, "engine", key)
        if self.policies.order is not None and brings(scheduling.policy, "order"):
            message = f"{scheduling.name} brings its own order"
            raise PartError(InputError(message, help="leave order out"), "policies", "order")
        if victim is not None and not takes(scheduling.policy, "victim"):
            message = f"{scheduling.name} asks no victim policy"
            raise PartError(InputError(message), "policies", "victim")
        return self

    @property
    def pools(self) -> tuple[PoolSpec, ...]:
        """The pools, also where the cluster is written flat."""
        return self.cluster.pools if isinstance(self.cluster, PoolsSpec) else (self.cluster,)

    def resolved(self) -> dict[str, Any]:
        """Plain data that loads as the same scenario, with every default filled in."""
        return self.model_dump(mode="json", exclude_none=True)
