"""The face of a disaggregation policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from ..errors import InputError
from ..types import Promise, ReplicaId, Request, Routable

Overlap: TypeAlias = Literal["none", "blocks", "layers"]


class Pools(Protocol):
    """The replicas of a cluster by what they may do, as ids in order."""

    @property
    def mixed(self) -> Sequence[ReplicaId]:
        """Replicas that prefill and decode."""

    @property
    def prefill(self) -> Sequence[ReplicaId]: ...
    @property
    def decode(self) -> Sequence[ReplicaId]: ...
    @property
    def encode(self) -> Sequence[ReplicaId]:
        """Replicas that encode images and nothing else."""

    def load(self, replica: ReplicaId) -> Routable:
        """What the replica last reported."""

    def prefix_hit_tokens(self, replica: ReplicaId, request: Request) -> int:
        """Tokens of the prompt whose KV the replica holds now."""


class Travel(NamedTuple):
    """How KV gets from the replica that computes it to the one that answers.

    Attributes:
        push: the decode replica takes blocks for the prompt first, and the prefill starts when it
            has them. Otherwise it takes them when the prefill is done, and asks for the KV then.
        overlap: what travels while the prefill still runs (with push only): nothing, the blocks
            that a chunk has filled when the chunk is done, or their layers, each when it is done.
        most: most transfers to one decode replica at once, from its taking blocks to the arrival;
            further requests wait in its line, without blocks. 0: no limit.
    """

    push: bool = False
    overlap: Overlap = "none"
    most: int = 0


class Placement(NamedTuple):
    """Where a request is served.

    Attributes:
        prefill: replica that computes the prompt.
        decode: replica that gets the KV and answers; None: the same one.
        travel: how KV gets there.
        encode: for each of the request's items the encoder that it goes to, None: it is encoded
            where the prompt is computed; (): all of them are.
    """

    prefill: ReplicaId
    decode: ReplicaId | None
    travel: Travel = Travel()
    encode: tuple[ReplicaId | None, ...] = ()


class Switch(NamedTuple):
    """A replica that shall change its role.

    A policy may have a method ``rebalance(now, pools)`` beside ``place``, which answers with one
    or None. It is asked when a request arrives and when one ends, but not while a replica is still
    on its way to another role. *pools* are without it.
    """

    replica: ReplicaId
    role: Literal["prefill", "decode"]


class Disaggregation(Protocol):
    """Decides where prefill and decode of a request run.

    One that sends images to encoders has an attribute ``encodes = True`` beside; others cannot be
    used where a pool encodes.
    """

    promise: ClassVar[Promise]

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """Place a request; *route* asks the routing policy to choose among some replicas."""


@dataclass(slots=True)
class Split:
    """How KV travels, for policies that send some requests over a link.

    Attributes:
        transfer: pull as vLLM's NIXL connector (the decode side asks when the prefill is done), or
            push as SGLang's (the decode side reserves, then the prefill runs and sends).
        overlap: see `Travel`; it needs push, since blocks to write to must stand ready.
        in_flight: most transfers to one decode replica at once; 0: no limit.
    """

    transfer: Literal["pull", "push"] = "pull"
    overlap: Overlap = "none"
    in_flight: int = 0

    def __post_init__(self) -> None:
        if self.overlap != "none" and self.transfer == "pull":
            raise InputError(
                f"overlap: {self.overlap} needs transfer: push, found transfer: pull",
                help="a pull begins when the prefill is done, so nothing is left to overlap with",
            )
        if self.in_flight < 0:
            raise InputError(f"in_flight must not be negative, found {self.in_flight}")

    @property
    def travel(self) -> Travel:
        """The same, for a placement."""
        return Travel(self.transfer == "push", self.overlap, self.in_flight)

    def pair(
        self, pools: Pools, route: Callable[[Sequence[ReplicaId]], ReplicaId], name: str
    ) -> Placement:
        """One replica of each pool.

        Raises:
            InputError: there are not both kinds; *name* is who needs them.
        """
        need_both(pools, name)
        return Placement(route(pools.prefill), route(pools.decode), self.travel)


def need_both(pools: Pools, name: str) -> None:
    """Raise InputError unless there are prefill and decode replicas, which *name* needs."""
    if not pools.prefill or not pools.decode:
        raise InputError(
            f"{name} needs a pool with role: prefill and one with role: decode",
            where="policies.disaggregation",
        )
