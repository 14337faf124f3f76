"""Replicas that change between prefill and decode with the queues before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..registry import disaggregation
from ..types import PS_PER_S, Picoseconds, Promise, ReplicaId, Request
from .base import Placement, Pools, Split, Switch


@disaggregation("role-switching")
@dataclass(slots=True)
class RoleSwitching(Split):
    """As static-split, and where one side's queue is long a replica of the other changes sides.

    The pools' roles are those at the start. The replica with the fewest requests changes; it is
    given nothing new, serves what it has to the end, and then takes its new role, as instances
    flip in TetriInfer (Hu et al. 2024); Splitwise's mixed pool (Patel et al. 2024) moves machines
    by the same signal.

    A queue before one side also backs up into the other: prompts that nobody has room for stay
    uncomputed (push), or in the KV of the prefill side (pull). So where both queues are long, the
    side that a request takes last is the one that is short of replicas: prefill with push, decode
    with pull. Requests that have room and wait for their KV wait for the prefill side alone.

    Attributes:
        prefill_queue: prefill is short of replicas from so many waiting requests on each on.
        decode_queue: the same for decode, of requests that have no room there.
        pause_s: shortest time between two changes.
    """

    prefill_queue: float = 4.0
    decode_queue: float = 4.0
    pause_s: float = 5.0
    _next_ps: Picoseconds = field(default=0, init=False)

    promise: ClassVar[Promise] = Promise()

    def __post_init__(self) -> None:
        # the zero-argument super() is lost when slots make the class anew
        Split.__post_init__(self)
        if min(self.prefill_queue, self.decode_queue) <= 0 or self.pause_s < 0:
            raise InputError(
                "prefill_queue and decode_queue must be above 0 and pause_s not below, found "
                f"{self.prefill_queue}, {self.decode_queue} and {self.pause_s}"
            )

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """One replica of each role."""
        return self.pair(pools, route, "role-switching")

    def rebalance(self, now: Picoseconds, pools: Pools) -> Switch | None:
        """The least busy replica of the other side, when one side is short of replicas."""
        if now < self._next_ps or not pools.prefill or not pools.decode:
            return None
        more_prefill = _waiting(pools, pools.prefill) >= self.prefill_queue
        more_decode = _waiting(pools, pools.decode) >= self.decode_queue
        if more_prefill and more_decode:
            more_prefill = self.travel.push
        elif not more_prefill and not more_decode:
            return None
        donors = pools.decode if more_prefill else pools.prefill
        if len(donors) < 2:
            return None
        self._next_ps = now + round(self.pause_s * PS_PER_S)
        donor = min(donors, key=lambda replica: (_requests(pools, replica), replica))
        return Switch(donor, "prefill" if more_prefill else "decode")


def _waiting(pools: Pools, replicas: Sequence[ReplicaId]) -> float:
    """Requests without room on each replica, on average."""
    loads = [pools.load(replica) for replica in replicas]
    return sum(load.waiting - load.arriving for load in loads) / len(loads)


def _requests(pools: Pools, replica: ReplicaId) -> int:
    load = pools.load(replica)
    return load.waiting + load.running
