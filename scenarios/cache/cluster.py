"""Requests through the replicas of a cluster: their KV pools and a router, no timing.

The pools are the simulator's own (`sim.state.kv`), with any eviction and either prefix index, so
their decisions are an engine's. What a cache-only replay leaves out is time: the last so many
requests count as in flight (they hold their KV, and routers see them as load), and a request
leaves when a later one takes its place. Answers are not cached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...policies.errors import InputError
from ...policies.eviction.base import Eviction
from ...policies.eviction.future import RecordedUses
from ...policies.routing.base import Router
from ...policies.types import Picoseconds, ReplicaId, Request
from ...sim.state.config import EngineLimits
from ...sim.state.kv.build import make_pool
from ...sim.state.sequence import Sequence as Handle
from .visits import Visit


class Shape(NamedTuple):
    """A cluster.

    Attributes:
        replicas: how many.
        blocks: KV blocks of each.
        block_size: tokens in a block.
        in_flight: requests of the cluster that hold their KV at any time.
    """

    replicas: int
    blocks: int
    block_size: int
    in_flight: int = 64

    def check(self) -> None:
        """Refuse what is no cluster.

        Raises:
            InputError: a number below 1.
        """
        for name, value in self._asdict().items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")


class Outcome(NamedTuple):
    """What the caches found.

    Attributes:
        hit_tokens: prompt tokens found in the cache of the replica that served them.
        refused: requests whose prompts do not fit into a replica at all; they hit nothing.
        evicted_blocks: blocks that lost reusable KV.
        placed: the replica of each request.
    """

    hit_tokens: int
    refused: int
    evicted_blocks: int
    placed: list[ReplicaId]


class Replica:
    """A KV pool and the requests that hold some of it; to routers, a `Routable` seen live."""

    waiting = arriving = 0
    age_ps: Picoseconds = 0

    def __init__(self, id: ReplicaId, shape: Shape, eviction: Eviction) -> None:
        self.id = id
        limits = EngineLimits(kv_blocks=shape.blocks, block_size=shape.block_size)
        self.pool = make_pool(limits, eviction)
        self._active: dict[int, Handle] = {}  # by request, oldest first

    @property
    def running(self) -> int:
        """Requests in flight."""
        return len(self._active)

    @property
    def kv_used(self) -> float:
        """Share of KV blocks that requests hold."""
        return 1 - self.pool.free / self.pool.total

    def serve(self, handle: Handle) -> int:
        """Hold the prompt's KV, whatever of it is cached; how many tokens that was.

        The oldest requests leave early where they must; a prompt longer than the pool is refused:
        -1.
        """
        pool, tokens = self.pool, handle.prompt_tokens
        blocks = -(-tokens // pool.block_size)
        if blocks > pool.total:
            return -1
        pool.now = handle.request.arrival_ps
        hit = pool.match(handle, tokens - 1)
        while pool.free - hit.idle < blocks - hit.blocks:
            self.finish(next(iter(self._active)))
            hit = pool.match(handle, tokens - 1)
        pool.acquire(handle, hit, blocks)
        pool.commit(handle, tokens)
        self._active[handle.id] = handle
        return hit.blocks * pool.block_size

    def finish(self, request: int) -> None:
        """Let go of a request's KV; nothing for one that has left."""
        handle = self._active.pop(request, None)
        if handle is not None:
            self.pool.release(handle)


class Cluster:
    """Replicas behind a router, which sees them live (a `ClusterView`).

    Args:
        shape: how many, how large.
        make_eviction: a fresh policy for each replica.
        router: sends requests.
    """

    def __init__(
        self, shape: Shape, make_eviction: Callable[[ReplicaId], Eviction], router: Router
    ) -> None:
        shape.check()
        self.replicas: Sequence[Replica] = [
            Replica(id, shape, make_eviction(id)) for id in range(shape.replicas)
        ]
        self.now: Picoseconds = 0
        self._shape, self._router = shape, router
        self._line: deque[tuple[Replica, int]] = deque()
        self._handle: Handle | None = None

    def prefix_hit_tokens(self, replica: ReplicaId, request: Request) -> int:
        """Tokens of the prompt under way whose KV the replica holds now."""
        assert self._handle is not None
        pool = self.replicas[replica].pool
        return pool.match(self._handle, request.prompt_tokens - 1).blocks * pool.block_size

    def serve(self, visits: Sequence[Visit]) -> Outcome:
        """Send every request to a replica, in order."""
        hit_tokens = refused = 0
        placed = []
        for request, chain in visits:
            if len(self._line) >= self._shape.in_flight:
                replica, oldest = self._line.popleft()
                replica.finish(oldest)
            self.now = request.arrival_ps
            self._handle = Handle(request, 1, chain, request.prompt_tokens + 1)
            replica = self.replicas[self._router.route(request, self)]
            placed.append(replica.id)
            found = replica.serve(self._handle)
            if found < 0:
                refused += 1
                continue
            hit_tokens += found
            self._line.append((replica, request.id))
        evicted = sum(replica.pool.evicted for replica in self.replicas)
        return Outcome(hit_tokens, refused, evicted, placed)


class Placed(Router):
    """Sends every request where a former replay sent it."""

    def __init__(self, placed: Sequence[ReplicaId]) -> None:
        self._placed = placed

    def route(self, request: Request, cluster: object) -> ReplicaId:
        """As recorded."""
        return self._placed[request.id]


def futures(
    visits: Sequence[Visit], placed: Sequence[ReplicaId], shape: Shape
) -> list[RecordedUses]:
    """For each replica, when each block is used next, if requests are placed so."""
    size = shape.block_size
    return [
        RecordedUses(
            chain.block_keys(0, request.prompt_tokens // size, size) if at == id else ()
            for (request, chain), at in zip(visits, placed, strict=True)
        )
        for id in range(shape.replicas)
    ]
