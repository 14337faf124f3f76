"""Small clusters, scripted clients and random cases for the tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

import numpy as np
import pytest

from infersim.policies import registry
from infersim.policies.eviction.lru import Lru
from infersim.policies.scheduling.order import (
    LastAdmitted,
    LowestPriority,
    Priority,
)
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import MultiModalItem, Picoseconds, Request, Segment
from infersim.sim.cost.base import EVEN, Contexts, DecodeLine, StepShape
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, LinkConfig, PoolConfig, RunLimits
from infersim.sim.state.session import (
    Arrival,
    Call,
    CallResult,
    Session,
    Sleep,
    Together,
    Use,
)


class LruByBlock(Lru):
    """LRU that the simulator cannot recognise, so that it keeps KV block by block."""


class SteppedCost:
    """Like `LinearCost`, but its decode lines bend every `cell` context tokens."""

    source, uneven = "a line with bends", False

    def __init__(self, base_ps: int, slope_ps: int, cell: int) -> None:
        self._linear = LinearCost(base_ps, 2 * slope_ps, slope_ps, slope_ps)
        self._slope, self._cell = slope_ps, cell

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        decodes, context = shape.decodes, shape.decode_context_tokens
        bend = self._bend(context) if decodes and not shape.prefills else 0
        return self._linear.duration_ps(shape) + bend

    def _bend(self, context: int) -> int:
        """0 at first; in cell n the slope is n times steeper, and the line is continuous."""
        cell = context // self._cell
        return self._slope * (cell * context - self._cell * (cell * (cell + 1) // 2))

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        base, slope, _, _ = self._linear.decode_line(decodes, context_tokens)
        cell = context_tokens // self._cell
        return DecodeLine(
            base - self._slope * self._cell * (cell * (cell + 1) // 2),
            slope + self._slope * cell,
            (cell + 1) * self._cell,
        )

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        return self._linear.prefill_ps(tokens, context_tokens)

    def joint_ps(self, tokens: int) -> Picoseconds:
        return 0


class Clients:
    """A workload from a list of arrivals."""

    closed_loop = True
    expected_requests = None

    def __init__(self, arrivals: list[Arrival], resources: dict[str, int] | None = None) -> None:
        self._arrivals, self.resources = arrivals, resources or {}

    def arrivals(self) -> Iterator[Arrival]:
        return iter(self._arrivals)


@dataclass(frozen=True)
class Script:
    """What a session does, as data: ("call", Call, quotes) | ("sleep", ps) | ("use", …) | …"""

    steps: tuple[tuple[Any, ...], ...]

    def play(self) -> Session:
        """A call that quotes says again what was said and answered, then its own prompt."""
        said: tuple[Segment, ...] = ()
        results: list[object] = []
        for what, *rest in self.steps:
            if what == "call":
                call, quotes = rest
                call = call._replace(prompt=(said if quotes else ()) + call.prompt)
                result = yield call
                assert isinstance(result, CallResult)
                results.append((result.ok, result.output_tokens))
                if result.ok:
                    answer = Segment(call.output_content, 0, result.output_tokens, "answer")
                    said = (*call.prompt, answer)
            elif what == "sleep":
                results.append((yield Sleep(rest[0])))
            elif what == "use":
                results.append((yield Use(*rest)))
            else:
                results.append((yield Together(tuple(script.play() for script in rest[0]))))
        return results


@dataclass
class Case:
    """A cluster and its clients; every `config` and `clients` call gives fresh objects."""

    limits: EngineLimits
    arrivals: list[tuple[int, Call | Script]]
    cost: Any = field(default_factory=lambda: LinearCost(1000, 10, 5, 1))
    replicas: int = 1
    ranks: int = 1  # data-parallel, of each replica
    decoders: int = 0  # above 0: static split, `replicas` prefill
    routing: str = "round-robin"
    seed: int = 0
    eviction: Callable[[], Any] = Lru
    scheduler: dict[str, Any] = field(default_factory=dict)
    make_scheduler: Callable[[], Any] | None = None  # instead of vLLM's with `scheduler`
    priority: bool = False
    link: LinkConfig = field(default_factory=lambda: LinkConfig(500, 10**10))
    signal_age_ps: int = 0
    kv_bytes_per_token: int = 3
    resources: dict[str, int] = field(default_factory=lambda: {"cpu": 2})

    def config(self) -> ClusterConfig:
        """The cluster."""
        victim = LowestPriority if self.priority else LastAdmitted
        pool = PoolConfig(
            name="a",
            role="both",
            replicas=self.replicas,
            limits=self.limits,
            cost=self.cost,
            make_scheduler=self.make_scheduler
            or (lambda: VllmV1(**{"victim": victim(), **self.scheduler})),
            make_eviction=self.eviction,
            kv_bytes_per_token=self.kv_bytes_per_token,
            make_order=Priority if self.priority else None,
            ranks=self.ranks,
        )
        pools = (pool,)
        if self.decoders:
            pools = (
                replace(pool, role="prefill"),
                replace(pool, name="b", role="decode", replicas=self.decoders),
            )
        routing = registry.routing.get(self.routing)()
        routing.rng = np.random.default_rng(self.seed)
        placement = "static-split" if self.decoders else "colocated"
        return ClusterConfig(
            pools,
            routing,
            registry.disaggregation.get(placement)(),
            self.link if self.decoders else None,
            self.signal_age_ps,
        )

    def clients(self) -> Clients:
        """The workload."""
        return Clients(
            [
                Arrival(at, what if isinstance(what, Call) else what.play)
                for at, what in self.arrivals
            ],
            self.resources,
        )

    def run(self, *, leap: bool = True, check: bool = True, requests: int | None = None) -> Outcome:
        """Simulate it."""
        limits = RunLimits(requests=requests)
        return simulate(self.config(), self.clients(), limits=limits, leap=leap, check=check)


def records(outcome: Outcome) -> dict[str, Any]:
    """Everything that a run leaves behind except its effort, comparable with ``==``."""
    out: dict[str, Any] = {"totals": outcome.totals, "samples": outcome.itl.samples}
    out["itl"] = (outcome.itl.counts.tobytes(), outcome.itl.total_ps)
    for table in ("requests", "series"):
        for name, column in getattr(outcome, table).items():
            text = column.dtype == object
            out[f"{table}.{name}"] = column.tolist() if text else column.tobytes()
    return out


def differing(one: Outcome, other: Outcome) -> list[str]:
    """Names of the records in which two runs differ."""
    mine, theirs = records(one), records(other)
    return [name for name in mine if mine[name] != theirs[name]]


# ---- random cases ----

EVICTIONS: dict[str, Callable[[], Any]] = {
    "lru": Lru,
    "lru by block": LruByBlock,
    "lfu": lambda: registry.eviction.get("lfu")(),
    "lfu global": lambda: registry.eviction.get("lfu")(counting="global"),
    "fifo": lambda: registry.eviction.get("fifo")(),
    "random": lambda: registry.eviction.get("random")(seed=3),
    "gdsf": lambda: registry.eviction.get("gdsf")(),
    "length-aware": lambda: registry.eviction.get("length-aware")(),
    "session-ttl": lambda: registry.eviction.get("session-ttl")(factor=1.0, min_s=0.0, max_s=10.0),
}
ROUTERS = ["round-robin", "random", "least-outstanding", "power-of-two", "session-sticky"]
ROUTERS.append("prefix-aware")
U = 10**8  #: a step of the random cases takes about 1000 of these, 0.1 s


def random_case(rng: Random, *, by_block: bool | None = None) -> Case:
    """A small cluster under pressure: tiny KV, ties, shared prefixes, quoted answers.

    Args:
        by_block: True and False fix LRU, block by block or not; None: any eviction.
    """
    size = rng.choice((1, 2, 4, 16))
    longest = rng.choice((12, 24, 40, 90))
    drafts = rng.choice((0, 0, 0, 2))  # they want KV and budget of their own
    blocks = -(-longest // size) + drafts + rng.choice((0, 1, 3, 8, 40))
    limits = EngineLimits(
        kv_blocks=blocks,
        block_size=size,
        max_model_len=longest,
        max_num_batched_tokens=rng.choice((1, 3, 8, 16, 64)) + drafts,
        max_num_seqs=rng.choice((1, 2, 3, 5, 16)),
        prefix_caching=rng.random() < 0.8,
        async_scheduling=rng.random() < 0.5,
        max_loras=rng.choice((0, 0, 1)),
        num_spec_tokens=drafts,
        lookahead_tokens=rng.choice((0, drafts)),
        encoder_budget=rng.choice((0, 0, 8)),
        encoder_cache_size=rng.choice((0, 0, 8)),
    )
    scheduler: dict[str, Any] = {}
    if rng.random() < 0.3:
        scheduler["reserve_full_isl"] = False
    if rng.random() < 0.3:
        scheduler["watermark"] = rng.choice((0.02, 0.1))
    if rng.random() < 0.2:
        scheduler["long_prefill_token_threshold"] = rng.choice((1, 4))
        scheduler["adaptive_long_prefill"] = rng.random() < 0.5
    if rng.random() < 0.1:
        scheduler["prefill_schedule_interval"] = 3
    if rng.random() < 0.1:
        scheduler["max_num_active_seqs"] = 2
    if limits.max_num_batched_tokens >= longest and rng.random() < 0.3:
        scheduler["chunked_prefill"] = False
    split = rng.random() < 0.35
    if by_block is None:
        eviction = EVICTIONS[rng.choice(list(EVICTIONS))]
    else:
        eviction = LruByBlock if by_block else Lru
    case = Case(
        limits,
        [],
        cost=rng.choice(
            (
                LinearCost(1000 * U, 10 * U, 5 * U, U),
                LinearCost(1000 * U),
                LinearCost(700 * U, 100 * U, 0, 3 * U),
                SteppedCost(900 * U, U, 17),
            )
        ),
        replicas=rng.choice((1, 1, 2, 3)),
        decoders=rng.choice((1, 2)) if split else 0,
        routing=rng.choice(ROUTERS),
        seed=rng.randrange(4),
        eviction=eviction,
        scheduler=scheduler,
        priority=rng.random() < 0.2,
        link=LinkConfig(rng.choice((0, 500, 7000)) * U, rng.choice((10, 10**4))),
        signal_age_ps=rng.choice((0, 0, 700, 5000)) * U,
        kv_bytes_per_token=rng.choice((1, 37)),
        resources={"cpu": rng.choice((1, 2))},
    )
    case.arrivals = _arrivals(rng, case)
    return case


def _arrivals(rng: Random, case: Case) -> list[tuple[int, Call | Script]]:
    contents = count(100)
    at, out = 0, []
    calls: list[Call] = []
    for session in range(rng.choice((1, 3, 6, 12))):
        at += rng.choice((0, 0, 1, 1000, 1005, 3000, 40_000)) * U
        if rng.random() < 0.5:
            out.append((at, _script(rng, case, contents, session, 2)))
            continue
        call = _call(rng, case, contents, -1, 0)
        if calls and rng.random() < 0.5:
            call = _echo(rng, call, rng.choice(calls))
        calls.append(call)
        out.append((at, call))
    return out


def _echo(rng: Random, call: Call, other: Call) -> Call:
    """A client that knows what *other* is answered, perhaps before it is; or asks the same."""
    if rng.random() < 0.3:
        return other
    quoted = rng.choice((1, 3, 8, 20))
    prompt = (*other.prompt, Segment(other.output_content, 0, quoted, "answer"), *call.prompt)
    return call._replace(prompt=prompt, lora=other.lora, salt=other.salt, items=other.items)


def _call(rng: Random, case: Case, contents: Iterator[int], session: int, turn: int) -> Call:
    longest = case.limits.max_model_len
    prompt = []
    if rng.random() < 0.7:  # a shared opening
        opening = rng.randrange(3)
        prompt.append(Segment(opening, 0, rng.choice((1, 4, 8, 17, longest // 2)), "system"))
    if not prompt or rng.random() < 0.7:
        prompt.append(Segment(next(contents), 0, rng.choice((1, 2, 3, 5, 9, 16)), "user"))
    tokens = sum(segment.tokens for segment in prompt)
    items: tuple[MultiModalItem, ...] = ()
    if turn == 0 and tokens > 4 and rng.random() < 0.1:
        items = (MultiModalItem(rng.randrange(2), 1, 3),)
    return Call(
        tuple(prompt),
        rng.choice((1, 1, 2, 3, 7, 20, 60)),
        next(contents),
        max_tokens=rng.choice((None, None, None, 1, 5)),
        session=session,
        turn=turn,
        priority=rng.randrange(3),
        kind="agent" if session >= 0 else "chat",
        lora=rng.choice(("",) * 8 + ("x", "y")),
        salt=rng.choice(("",) * 9 + ("s",)),
        items=items,
        tool_time_s=rng.choice((-1.0, 0.0, 0.5, 5.0)),
    )


def _script(rng: Random, case: Case, contents: Iterator[int], session: int, depth: int) -> Script:
    steps: list[tuple[Any, ...]] = []
    for turn in range(rng.choice((1, 2, 4))):
        steps.append(("call", _call(rng, case, contents, session, turn), rng.random() < 0.7))
        kind = rng.choice(("sleep", "use", "together", "", ""))
        if kind == "sleep":
            steps.append(("sleep", rng.choice((0, 1, 1000, 20_000)) * U))
        elif kind == "use":
            held, limit = rng.choice((0, 900, 9000)) * U, rng.choice((None, 1000 * U))
            steps.append(("use", "cpu", held, limit))
        elif kind == "together" and depth:
            parts = [_script(rng, case, contents, session, depth - 1) for _ in range(2)]
            steps.append(("together", parts))
    return Script(tuple(steps))


# ---- fixtures ----


def request(number: int = 0, prompt: int = 8, **given: Any) -> Request:
    """A request whose prompt is one text of its own."""
    segments = given.pop("segments", (Segment(1000 + number, 0, prompt),))
    return Request(
        id=number,
        arrival_ps=given.pop("arrival_ps", 0),
        prompt=segments,
        prompt_tokens=sum(segment.tokens for segment in segments),
        max_tokens=given.pop("max_tokens", 1 << 40),
        output_content=given.pop("output_content", 5000 + number),
        **given,
    )


def plain_call(content: int, prompt: int, output: int, **given: Any) -> Call:
    """A call whose prompt is one text."""
    return Call((Segment(content, 0, prompt, "user"),), output, 10_000 + content, **given)


class Lab:
    """The builders of this file, for tests to share."""

    Case, Clients, Script, SteppedCost, LruByBlock = Case, Clients, Script, SteppedCost, LruByBlock
    EVICTIONS, ROUTERS = EVICTIONS, ROUTERS
    records = staticmethod(records)
    differing = staticmethod(differing)
    random_case = staticmethod(random_case)
    request = staticmethod(request)
    call = staticmethod(plain_call)


@pytest.fixture(scope="session")
def lab() -> type[Lab]:
    return Lab
