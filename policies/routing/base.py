"""The face of a routing policy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..types import ClusterView, Promise, ReplicaId, Request, Routable


class Router:
    """Chooses the replica that serves a request, from snapshots that may be old.

    Attributes:
        rng: the policy's own random stream; the host sets it before the run.
    """

    promise: ClassVar[Promise] = Promise()
    rng: np.random.Generator

    def route(self, request: Request, cluster: ClusterView) -> ReplicaId:
        """One of the ids in ``cluster.replicas``."""
        raise NotImplementedError


def outstanding(replica: Routable) -> tuple[int, ReplicaId]:
    """Requests that wait or run on a replica; its id breaks ties."""
    return replica.waiting + replica.running, replica.id
