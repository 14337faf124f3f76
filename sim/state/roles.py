"""Which replica does what, where a policy may change it during the run."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from typing import Any, Literal, TypeAlias, get_args

from ...policies.disaggregation.base import Disaggregation, Placement, Pools, Switch
from ...policies.errors import InputError
from ...policies.types import Picoseconds, ReplicaId

Role: TypeAlias = Literal["both", "prefill", "decode", "encode"]


class Roles:
    """Replicas by role, as ids in order. One that changes is in no list until it is drained.

    Args:
        policy: asked for changes where it has a method ``rebalance``.

    Attributes:
        change: whether they may.
        switched: changes so far.
    """

    def __init__(self, policy: Disaggregation) -> None:
        self.of: dict[Role, list[ReplicaId]] = {role: [] for role in get_args(Role)}
        self.switched = 0
        self._rebalance: Any = getattr(policy, "rebalance", None)
        self.change = self._rebalance is not None
        self._serving: Counter[ReplicaId] = Counter()  # requests, or halves of requests
        self._becoming: dict[ReplicaId, Role] = {}

    def placed(self, placement: Placement) -> None:
        """A request will be served there."""
        self._serving[placement.prefill] += 1
        if placement.decode is not None:
            self._serving[placement.decode] += 1

    def served(self, replica: ReplicaId) -> None:
        """A request, or its half, is over on *replica*, and its KV has been read."""
        self._serving[replica] -= 1
        self._settle(replica)

    def rebalance(self, now: Picoseconds, pools: Pools) -> None:
        """Ask the policy, if it may, unless a replica is still on its way to another role.

        Raises:
            InputError: it names a replica that cannot change, or the last one of its role.
        """
        if self._rebalance is None or self._becoming:
            return
        switch: Switch | None = self._rebalance(now, pools)
        if switch is None:
            return
        replica, role = switch
        donors = self.of["decode" if role == "prefill" else "prefill"]
        if replica not in donors or len(donors) < 2:
            raise InputError(
                f"the policy moves replica {replica} to {role}; it may move one of {donors}, "
                "and not the last",
                where="policies.disaggregation",
            )
        donors.remove(replica)
        self._becoming[replica] = role
        self._settle(replica)

    def _settle(self, replica: ReplicaId) -> None:
        """Let a replica that is drained take its new role."""
        if replica in self._becoming and not self._serving[replica]:
            insort(self.of[self._becoming.pop(replica)], replica)
            self.switched += 1
