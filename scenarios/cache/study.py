"""Evictions × routers × sizes over several traces: what ``infersim cache --routing`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

from ...policies.errors import InputError
from ...policies.eviction.base import Eviction
from ...policies.eviction.lru import Lru
from ...policies.routing.base import Router
from ...policies.routing.simple import RoundRobin
from ...policies.types import ReplicaId
from ...sim.state.streams import Streams
from ..choice import Choice
from .cluster import Cluster, Outcome, Placed, Shape, futures
from .names import BLOCK_TOKENS, KV_TOKENS, Named
from .visits import Visits

#: what a cell without a limit is called, and one with a single cache for all
ENDLESS, SHARED = 0, "one cache"
LRU = "lru"


class Subject(NamedTuple):
    """A trace to study.

    Attributes:
        visits: its requests.
        block_tokens: tokens in a block of the caches.
        own_block_tokens: tokens that one block id of the trace stands for.
    """

    visits: Visits
    block_tokens: int
    own_block_tokens: int


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        subjects: the traces.
        evictions, routings: the policies.
        kv_tokens: sizes of a replica.
        replicas: how many there are.
        in_flight: requests of the cluster that hold their KV at any time.
        seed: of the routers' random streams.
    """

    subjects: Sequence[Subject]
    evictions: Sequence[Named]
    routings: Sequence[Named]
    kv_tokens: Sequence[int]
    replicas: int = 8
    in_flight: int = 64
    seed: int = 1

    def cells(self) -> list[Cell]:
        """Every combination, and lru at more sizes, without a limit, and in one cache for all.

        Where blocks are not the trace's own, lru is also asked with the trace's.

        Raises:
            InputError: a size below one block.
        """
        out: list[Cell] = []
        for number, subject in enumerate(self.subjects):
            for tokens in self.kv_tokens:
                if tokens < subject.block_tokens:
                    raise InputError(
                        f"{tokens:,} tokens hold no block of {subject.block_tokens:,} tokens",
                        where=KV_TOKENS,
                    )
            out += self._bounds(number, subject)
            out += [
                Cell(number, eviction.label, routing.label, tokens, subject.block_tokens)
                for tokens in self.kv_tokens
                for routing in self.routings
                for eviction in self.evictions
            ]
        return list(dict.fromkeys(out))

    def _bounds(self, number: int, subject: Subject) -> list[Cell]:
        block, own = subject.block_tokens, subject.own_block_tokens
        more = {n * tokens // 2 for n in (1, 2, 4) for tokens in self.kv_tokens}
        asked = [
            (block, (*sorted(tokens for tokens in more if tokens >= block), ENDLESS)),
            (own, (*self.kv_tokens, ENDLESS)),
        ]
        routers = [SHARED, *(routing.label for routing in self.routings)]
        return [
            Cell(number, LRU, router, tokens, size)
            for size, sizes in asked
            for router in routers
            for tokens in sizes
        ]

    def effort(self, cell: Cell) -> tuple[bool, float]:
        """Orders cells by how long they take, roughly: lru, which keeps runs, takes least."""
        subject = self.subjects[cell.subject]
        return cell.eviction != LRU, subject.visits.prompt_tokens / cell.block_tokens

    def facts(self) -> dict[str, Any]:
        """What the readers of its results want to know of it."""
        return {
            "replicas": self.replicas,
            "in_flight": self.in_flight,
            "kv_tokens": sorted(self.kv_tokens),
            "traces": {
                subject.visits.name: {
                    "requests": len(subject.visits.requests),
                    "sessions": subject.visits.sessions,
                    "prompt_tokens": subject.visits.prompt_tokens,
                    "block_tokens": subject.block_tokens,
                    "own_block_tokens": subject.own_block_tokens,
                }
                for subject in self.subjects
            },
        }


class Cell(NamedTuple):
    """One cluster to replay: a trace by its number, policies by name, and a size."""

    subject: int
    eviction: str
    routing: str
    kv_tokens: int
    block_tokens: int


class Result(NamedTuple):
    """What one cluster's caches found.

    Attributes:
        trace, eviction, routing: names.
        kv_tokens: KV of a replica; 0 for no limit.
        block_tokens: tokens in a block.
        replicas: how many share the requests; 1 where they have one cache of the size of all.
        hit_rate: hit tokens / prompt tokens.
        hit_tokens, prompt_tokens: of all requests.
        refused: requests longer than a replica's KV; they hit nothing.
        evicted_blocks: blocks that lost reusable KV.
        oracle: whether the eviction reads the future.
        seconds: wall-clock time.
    """

    trace: str
    eviction: str
    routing: str
    kv_tokens: int
    block_tokens: int
    replicas: int
    hit_rate: float
    hit_tokens: int
    prompt_tokens: int
    refused: int
    evicted_blocks: int
    oracle: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self._asdict()


def run_cell(study: Study, cell: Cell) -> Result:
    """Replay one cell.

    An oracle is told what each replica will be asked, if requests are placed as under lru: it is
    the bound of that placement.
    """
    start = perf_counter()
    subject = study.subjects[cell.subject]
    eviction = _choice(study.evictions, cell.eviction)
    oracle = bool(eviction and eviction.policy.promise.oracle)
    shape = _shape(study, cell)

    def replay(make: Callable[[ReplicaId], Eviction], router: Router) -> Outcome:
        return Cluster(shape, make, router).serve(subject.visits.requests)

    router = _router(study, cell.routing)
    if oracle:
        placed = replay(lambda _: Lru(), router).placed
        uses = futures(subject.visits.requests, placed, shape)

        def informed(replica: ReplicaId) -> Eviction:
            policy: Eviction = eviction.build()  # type: ignore[union-attr]
            policy.attach(uses[replica])
            return policy

        found = replay(informed, Placed(placed))
    else:
        found = replay(lambda _: eviction.build() if eviction else Lru(), router)
    tokens = subject.visits.prompt_tokens
    return Result(
        subject.visits.name,
        cell.eviction,
        cell.routing,
        cell.kv_tokens,
        cell.block_tokens,
        shape.replicas,
        found.hit_tokens / tokens if tokens else 0.0,
        found.hit_tokens,
        tokens,
        found.refused,
        found.evicted_blocks,
        oracle,
        perf_counter() - start,
    )


def _shape(study: Study, cell: Cell) -> Shape:
    replicas, tokens = study.replicas, cell.kv_tokens
    if cell.routing == SHARED:
        replicas, tokens = 1, study.replicas * tokens
    blocks = tokens // cell.block_tokens
    if cell.kv_tokens == ENDLESS:
        requests = study.subjects[cell.subject].visits.requests
        blocks = sum(-(-request.prompt_tokens // cell.block_tokens) for request, _ in requests)
    return Shape(replicas, max(blocks, 1), cell.block_tokens, study.in_flight)


def _choice(named: Sequence[Named], label: str) -> Choice | None:
    return next((choice for name, choice in named if name == label), None)


def _router(study: Study, label: str) -> Router:
    choice = _choice(study.routings, label)
    router: Router = RoundRobin() if choice is None else choice.build()
    router.rng = Streams(study.seed).get("routing")
    return router


def check_block_tokens(tokens: int, own: int) -> int:
    """*tokens* of a block, which must be a whole number of the trace's blocks.

    Raises:
        InputError: it is not.
    """
    if tokens < 1 or tokens % own:
        raise InputError(
            f"blocks of {tokens:,} tokens over a trace whose ids stand for {own:,}",
            where=BLOCK_TOKENS,
            help=f"a multiple of {own:,}",
        )
    return tokens
