"""Routers that look at load only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import routing
from ..types import ClusterView, Promise, ReplicaId, Request
from .base import Router, outstanding


@routing("round-robin")
@dataclass
class RoundRobin(Router):
    """Each replica in turn; prefill and decode pools take turns of their own."""

    promise: ClassVar[Promise] = Promise()
    _turns: dict[tuple[ReplicaId, int], int] = field(default_factory=dict, init=False, repr=False)

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """The next replica in order of id."""
        replicas = cluster.replicas
        pool = replicas[0].id, len(replicas)
        turn = self._turns.get(pool, 0)
        self._turns[pool] = turn + 1
        return replicas[turn % len(replicas)].id


@routing("random")
@dataclass
class Random(Router):
    """Any replica, with equal chances."""

    promise: ClassVar[Promise] = Promise()

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """A replica drawn from the policy's own stream."""
        replicas = cluster.replicas
        return replicas[int(self.rng.integers(len(replicas)))].id


@routing("least-outstanding")
@dataclass
class LeastOutstanding(Router):
    """The replica with the fewest requests waiting or running."""

    promise: ClassVar[Promise] = Promise()

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """The least loaded replica, the lowest id among equals."""
        return min(cluster.replicas, key=outstanding).id


@routing("power-of-two")
@dataclass
class PowerOfTwo(Router):
    """The less loaded of two replicas drawn at random (Mitzenmacher 2001)."""

    promise: ClassVar[Promise] = Promise()

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """The better of two draws without replacement."""
        replicas = cluster.replicas
        if len(replicas) == 1:
            return replicas[0].id
        first = int(self.rng.integers(len(replicas)))
        second = int(self.rng.integers(len(replicas) - 1))
        second += second >= first
        return min(replicas[first], replicas[second], key=outstanding).id
