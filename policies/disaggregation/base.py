"""The face of a disaggregation policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol

from ..types import Promise, ReplicaId, Request


class Pools(Protocol):
    """The replicas of a cluster by what they may do, as ids in order."""

    @property
    def mixed(self) -> Sequence[ReplicaId]:
        """Replicas that prefill and decode."""

    @property
    def prefill(self) -> Sequence[ReplicaId]: ...
    @property
    def decode(self) -> Sequence[ReplicaId]: ...


class Placement(NamedTuple):
    """Where a request is served.

    Attributes:
        prefill: replica that computes the prompt.
        decode: replica that pulls the KV and answers; None: the same one.
    """

    prefill: ReplicaId
    decode: ReplicaId | None


class Disaggregation(Protocol):
    """Decides where prefill and decode of a request run."""

    promise: ClassVar[Promise]

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """Place a request; *route* asks the routing policy to choose among some replicas."""
