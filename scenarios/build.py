"""Scenario → a cluster and a workload, simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..policies.errors import InputError
from ..policies.types import PS_PER_S, Promise
from ..sim.cost.profile import PROFILE
from ..sim.engine.config import Effort, Progress
from ..sim.engine.run import simulate
from ..sim.state.config import ClusterConfig, LinkConfig, RunLimits
from ..sim.state.content import Contents
from ..sim.state.records import CellRecords, GapHistogram
from ..sim.state.steps import StepLog
from ..sim.state.streams import Streams
from .choice import Choice
from .encoders import check_encoders, pool_of
from .explain import PartError
from .pools import Pool
from .sampling import disturbed
from .schema.named import catalogued
from .schema.pool import PoolsSpec

if TYPE_CHECKING:
    from .grid import Cell
    from .schema.scenario import LinkSpec, Scenario
    from .workload.built import BuiltWorkload


class Simulated(NamedTuple):
    """A cell's records, and what it cost to simulate."""

    records: CellRecords
    effort: Effort


class Played(Protocol):
    """What a host leaves behind of a run; see `CellRecords` for each."""

    @property
    def requests(self) -> dict[str, np.ndarray[Any, Any]]: ...
    @property
    def series(self) -> dict[str, np.ndarray[Any, Any]]: ...
    @property
    def itl(self) -> GapHistogram: ...
    @property
    def totals(self) -> dict[str, int]: ...


class Assembly(NamedTuple):
    """One cell, ready for a host to play once.

    Attributes:
        pools: as in the scenario, with their capacity and cost.
        config: the cluster.
        workload: its clients.
        limits: when to take no more work.
        contents: what names the texts of the workload.
    """

    cell: Cell
    pools: list[Pool]
    config: ClusterConfig
    workload: BuiltWorkload
    limits: RunLimits
    contents: Contents

    def records(self, played: Played, log: StepLog | None) -> CellRecords:
        """The records of the cell, with its steps where they were logged."""
        scenario, found = self.cell.scenario, self.pools
        notes = [pool.capacity.note for pool in found if pool.capacity.note]
        notes += [note for pool in found for note in pool.cost_notes]
        notes += _idle_evictions(scenario.policies.eviction, found)
        notes += _full_hosts(played.totals)
        if getattr(scenario.workload, "adapters", 0) and not all(p.prices_adapters for p in found):
            notes.append("step times: LoRA adapters cost nothing: no profile has a table of them")
        if "compiled_grammars" in played.totals:
            notes += _masks(found)
        return CellRecords(
            name=self.cell.name,
            params=self.cell.params,
            requests=played.requests,
            series=played.series,
            itl=played.itl,
            totals=played.totals,
            capacity=[pool.row() for pool in found],
            notes=[*self.workload.notes, *notes],
            cost_source="; ".join(sorted({pool.cost.source for pool in found})),
            warm_up_ps=round(scenario.warm_up_s * PS_PER_S),
            slo=scenario.slo.model_dump(exclude_none=True),
            prices={"gpu_hour_usd": scenario.prices.gpu_hour_usd} if scenario.prices else {},
            oracle=any(_promise(choice).oracle for choice in chosen(scenario)),
            steps=None if log is None else log.arrays(),
        )


def _idle_evictions(named: Choice | None, pools: Sequence[Pool]) -> list[str]:
    """Where an eviction that the scenario names has nothing to decide."""
    return [
        f"{named.name} evicts nothing in pool {pool.spec.name}: it has no prefix cache"
        for pool in pools
        if named is not None and not pool.spec.engine.enable_prefix_caching
    ]


def _masks(found: Sequence[Pool]) -> list[str]:
    """What the reader must know where answers follow grammars."""
    fills = sorted({pool.spec.overheads.bitmask_fill_s for pool in found})
    times = " or ".join(f"{seconds * 1e6:g} µs" for seconds in fills)
    return [
        f"structured output: filling a mask takes the host {times} (overheads.bitmask_fill_s), "
        "which depends on grammar and library and is not measured here"
    ]


def _full_hosts(totals: dict[str, int]) -> list[str]:
    """What the reader must know where swap space did not suffice."""
    times = totals.get("swap_refused", 0)
    if not times:
        return []
    return [
        f"the swap space was full {times:,} times, and what it could not take was computed again; "
        "vLLM 0.6 stops there (Aborted due to the lack of CPU swap space)"
    ]


#: told now and then: simulated seconds, requests that ended, share done (NaN: not known)
Told = Callable[[float, int, float], None]


def pools(scenario: Scenario, folders: Sequence[Path]) -> list[Pool]:
    """The pools, with their KV capacity.

    Raises:
        PartError: a model does not fit, or the pools do not go together.
    """
    listed = isinstance(scenario.cluster, PoolsSpec)
    found = []
    for i, spec in enumerate(scenario.pools):
        try:
            found.append(pool_of(spec, folders))
            found[-1].swap(scenario.policies)
        except PartError as error:
            place = ("cluster", "pools", i) if listed else ("cluster",)
            raise PartError(error.error, *place, *_keys(error.path)) from None
    _check_together(scenario, found)
    return found


def cluster(scenario: Scenario, found: Sequence[Pool], folders: Sequence[Path]) -> ClusterConfig:
    """What the engine is told; *found* are the scenario's `pools`."""
    policies = scenario.policies
    placement = policies.disaggregation or Choice("disaggregation", _placement(scenario))
    routing = policies.routing or Choice("routing", "round-robin")
    return ClusterConfig(
        pools=tuple(pool.config(policies) for pool in found),
        routing=routing.build(),
        disaggregation=placement.build(),
        kv_link=_link(scenario.links.kv, folders),
        embedding_link=_link(scenario.links.embeddings, folders),
        signal_age_ps=round(scenario.router.signal_age_s * PS_PER_S),
    )


def capacity_lines(scenarios: Iterable[Scenario], folders: Sequence[Path]) -> list[str]:
    """The KV capacity of every pool of the scenarios in a line each, nothing said twice."""
    found = (pool for scenario in scenarios for pool in pools(scenario, folders))
    lines = (line for pool in found for line in (pool.line(), pool.capacity.note) if line)
    return list(dict.fromkeys(lines))


def inputs(scenarios: Iterable[Scenario], folders: Sequence[Path]) -> dict[str, Path]:
    """Every file that the scenarios read, by the name that they call it; absent ones left out."""
    names = sorted({name for scenario in scenarios for name in _files(scenario.resolved())})
    found = {}
    for name in names:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is not None:
            found[name] = path
    return found


def assemble(cell: Cell, folders: Sequence[Path]) -> Assembly:
    """Build the cluster and the workload of one cell.

    Raises:
        InfersimError: something in it cannot be.
    """
    scenario, streams = cell.scenario, Streams(cell.scenario.seed)
    found = pools(scenario, folders)
    config = disturbed(cluster(scenario, found, folders), cell)
    config.routing.rng = streams.get("routing")
    config = replace(config, link_rng=streams.get("links.kv"))
    config = replace(config, embedding_rng=streams.get("links.embeddings"))
    context = min(p.capacity.max_model_len for p in found if p.spec.role != "encode")
    contents = Contents()
    workload = scenario.workload.build(streams, contents, folders, context)
    limits = RunLimits(scenario.limits.requests, _picoseconds(scenario.limits.duration_s))
    return Assembly(cell, found, config, workload, limits, contents)


def simulate_cell(
    cell: Cell, folders: Sequence[Path], *, leap: bool, progress: Told, trace: bool = False
) -> Simulated:
    """Simulate one cell from start to end.

    Args:
        leap: take runs of equal steps as one event; the records are the same.
        trace: keep a row of every step.

    Raises:
        InfersimError: whatever stops it.
    """
    made = assemble(cell, folders)
    log = StepLog() if trace else None
    outcome = simulate(
        made.config,
        made.workload,
        limits=made.limits,
        leap=leap,
        progress=lambda so_far: progress(*_told(so_far, cell.scenario.limits.duration_s)),
        trace=log,
    )
    return Simulated(made.records(outcome, log), outcome.effort)


def chosen(scenario: Scenario) -> list[Choice]:
    """The policies that the scenario names."""
    values = (getattr(scenario.policies, name) for name in type(scenario.policies).model_fields)
    return [value for value in values if value is not None]


def _promise(choice: Choice) -> Promise:
    promise: Promise = getattr(choice.policy, "promise", Promise())
    return promise


def _picoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * PS_PER_S)


def _told(so_far: Progress, duration_s: float | None) -> tuple[float, int, float]:
    """Simulated seconds, requests that ended, and the share of the run that is done."""
    now_s = so_far.now_ps / PS_PER_S
    shares = [so_far.ended / so_far.expected] if so_far.expected else []
    shares += [now_s / duration_s] if duration_s else []
    return now_s, so_far.ended, min(1.0, max(shares)) if shares else nan


def _check_together(scenario: Scenario, found: Sequence[Pool]) -> None:
    check_encoders(scenario, found)
    served = [(i, pool) for i, pool in enumerate(found) if pool.spec.role != "encode"]
    roles = sorted({pool.spec.role for _, pool in served})
    if roles == ["both"]:
        return
    if len(roles) == 1:
        other = "decode" if roles == ["prefill"] else "prefill"
        message = f"a {roles[0]} pool needs a {other} pool"
        raise PartError(InputError(message, help=f"add one with role: {other}"), "cluster")
    if "both" in roles and scenario.policies.disaggregation is None:
        message = f"pools with the roles {', '.join(roles)}: nothing says who serves a request"
        help = "give all of them role: both, or prefill and decode only, or a disaggregation policy"
        raise PartError(InputError(message, help=help), "cluster", "pools")
    for name, values in (
        ("model", [(i, pool.model.name) for i, pool in served]),
        ("kv_dtype", [(i, pool.spec.kv_dtype) for i, pool in served]),
        ("block_size", [(i, pool.spec.block_size) for i, pool in served]),
    ):
        for i, value in values:
            if value != values[0][1]:
                message = f"KV moves between pools: {name} must be {values[0][1]} in all of them"
                raise PartError(InputError(message), "cluster", "pools", i, name)
    if scenario.links.kv is None:
        message = "prefill and decode pools need a link for the KV between them"
        raise PartError(InputError(message, help="e.g. links: {kv: nvlink4}"), "links")


def _keys(path: tuple[str | int, ...]) -> Iterator[str | int]:
    """("engine.max_model_len",) as two keys."""
    for part in path:
        yield from str(part).split(".") if part else ()


def _files(data: Any) -> Iterator[str]:
    """Texts in *data* that name files: of traces, policies, profiles and catalogue entries."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, str):
                if key == "file" or value.endswith((".yaml", ".yml")):
                    yield value
                elif ".py:" in value:
                    yield value.rpartition(":")[0]
                elif key == "profile":
                    yield f"{value}/{PROFILE}"
            else:
                yield from _files(value)
    elif isinstance(data, list):
        for item in data:
            yield from _files(item)


def _placement(scenario: Scenario) -> str:
    roles = {pool.role for pool in scenario.pools}
    if "encode" in roles:
        return "encoder-split"
    return "colocated" if roles == {"both"} else "static-split"


def _link(spec: LinkSpec | None, folders: Sequence[Path]) -> LinkConfig | None:
    if spec is None:
        return None
    if spec.name is not None:
        link = catalogued("link", spec.name, folders)
        latency_ps, rate = round(link.latency_s * PS_PER_S), round(link.bandwidth_bytes_per_s)
    else:
        assert spec.latency_us is not None
        assert spec.gbytes_per_s is not None
        latency_ps, rate = round(spec.latency_us * 1e6), round(spec.gbytes_per_s * 1e9)
    return LinkConfig(latency_ps, rate, spec.failure, spec.retries)
