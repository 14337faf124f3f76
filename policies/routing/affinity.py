"""Routers that send requests to where their KV is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..registry import routing
from ..types import ClusterView, Promise, ReplicaId, Request
from .base import Router, outstanding


@routing("session-sticky")
@dataclass
class SessionSticky(Router):
    """A session stays on the replica that its first request went to, the least loaded one then.

    It has one such home in each pool that its requests are routed in (prefill, decode).
    """

    promise: ClassVar[Promise] = Promise()
    _homes: dict[int, list[ReplicaId]] = field(default_factory=dict, init=False, repr=False)

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """The session's home; requests without a session go to the least loaded replica."""
        replicas = cluster.replicas
        homes = self._homes.get(request.session, ())
        for home in homes:
            if any(replica.id == home for replica in replicas):
                return home
        chosen = min(replicas, key=outstanding).id
        if request.session >= 0:
            self._homes[request.session] = [*homes, chosen]
        return chosen


@routing("prefix-aware")
@dataclass
class PrefixAware(Router):
    """The replica with the longest cached prefix, unless load is out of balance.

    Method: SGLang's router (`sgl-model-gateway`, policy cache_aware, read from source). It is out
    of balance when the busiest replica leads the idlest by more than `balance_abs` requests and by
    more than the factor `balance_rel`; then, or when the best match covers no more than
    `cache_threshold` of the prompt, the least loaded replica serves.

    Unlike SGLang's, which matches text against a tree of what it sent, the match here is the
    replica's own index, as routers that subscribe to KV events see it (Dynamo, llm-d).
    """

    cache_threshold: float = 0.5
    balance_abs: int = 32
    balance_rel: float = 1.1
    promise: ClassVar[Promise] = Promise()

    def __post_init__(self) -> None:
        if not 0 <= self.cache_threshold <= 1:
            raise ValueError(f"cache_threshold must be in [0, 1], found {self.cache_threshold}")
        if self.balance_abs < 0 or self.balance_rel < 1:
            raise ValueError(
                "balance_abs must not be negative and balance_rel at least 1, "
                f"found {self.balance_abs} and {self.balance_rel}"
            )

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """The best match in balance, else the least loaded replica."""
        replicas = cluster.replicas
        loads = [replica.waiting + replica.running for replica in replicas]
        most, least = max(loads), min(loads)
        if most - least <= self.balance_abs or most <= self.balance_rel * least:
            hits = [
                (-cluster.prefix_hit_tokens(replica.id, request), *outstanding(replica))
                for replica in replicas
            ]
            hit, _, chosen = min(hits)
            if -hit > self.cache_threshold * request.prompt_tokens:
                return chosen
        return min(replicas, key=outstanding).id
