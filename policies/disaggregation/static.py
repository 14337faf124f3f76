"""Placements that never change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..registry import disaggregation
from ..types import Promise, ReplicaId, Request
from .base import Placement, Pools, Split


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
class StaticSplit(Split):
    """Prompts are computed in the prefill pool; the decode pool gets their KV and answers.

    Flow with transfer: pull, the default: vLLM 0.33's NIXL connector. The prefill replica answers
    one token and keeps its blocks until the decode replica has pulled those that it does not hold
    already; the decode replica computes the last prompt token again and samples from it.
    With transfer: push: SGLang's, where a prompt waits until the decode replica has room for it.
    """

    promise: ClassVar[Promise] = Promise()

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """One replica of each pool."""
        return self.pair(pools, route, "static-split")
