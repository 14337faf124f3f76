"""Placements that never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..registry import disaggregation
from ..types import Promise, ReplicaId, Request
from .base import Placement, Pools


@disaggregation("colocated")
@dataclass(slots=True)
class Colocated:
    """Prefill and decode of a request run on one replica."""

    promise: ClassVar[Promise] = Promise()

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """One replica with role both."""
        if not pools.mixed:
            raise InputError(
                "colocated needs replicas with role: both",
                where="policies.disaggregation",
                help="found pools for prefill and decode only; static-split uses them",
            )
        return Placement(route(pools.mixed), None)


@disaggregation("static-split")
@dataclass(slots=True)
class StaticSplit:
    """Prompts are computed in the prefill pool; the decode pool pulls their KV and answers.

    Flow: vLLM 0.33's NIXL connector: the prefill replica answers one token
    and keeps its blocks until the decode replica has pulled those that it does not hold already;
    the decode replica computes the last prompt token again and samples from it.
    """

    promise: ClassVar[Promise] = Promise()

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """One replica of each pool."""
        if not pools.prefill or not pools.decode:
            raise InputError(
                "static-split needs a pool with role: prefill and one with role: decode",
                where="policies.disaggregation",
            )
        return Placement(route(pools.prefill), route(pools.decode))
