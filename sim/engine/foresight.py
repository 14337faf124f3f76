"""What oracle policies are told: the stream of requests, where it is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator

from ...policies.errors import InputError
from ...policies.eviction.future import RecordedUses
from ..state.config import ClusterConfig, PoolConfig
from ..state.content import Chains
from ..state.session import Arrival, Call, Workload


def oracle_pool(config: ClusterConfig) -> PoolConfig | None:
    """The pool whose eviction reads the future, if any."""
    return next((p for p in config.pools if p.make_eviction().promise.oracle), None)


def foresee(
    config: ClusterConfig, pool: PoolConfig, workload: Workload, chains: Chains
) -> tuple[RecordedUses, Iterator[Arrival]]:
    """When each block is used next, by order of arrival, and the arrivals that were read for it.

    Raises:
        InputError: the stream that a replica will see is not known beforehand.
    """
    if workload.closed_loop:
        raise InputError(
            "belady needs to know every request beforehand, and in this workload later ones "
            "depend on earlier answers",
            where="policies.eviction",
            help="take an open-loop workload, or another eviction policy",
        )
    replicas = sum(p.replicas for p in config.pools)
    if replicas > 1:
        raise InputError(
            f"belady needs one replica, found {replicas}: who serves a request is not known "
            "beforehand",
            where="policies.eviction",
            help="set cluster.replicas: 1, or take another eviction policy",
        )
    arrivals = list(workload.arrivals())
    calls = [arrival.what for arrival in arrivals if isinstance(arrival.what, Call)]
    size = pool.limits.block_size

    def keys(call: Call) -> list[int]:
        chain = chains.chain(
            call.prompt, model=call.model, lora=call.lora, salt=call.salt, items=call.items
        )
        return chain.block_keys(0, chain.tokens // size, size)

    return RecordedUses(keys(call) for call in calls), iter(arrivals)
