"""The order of SGLang's waiting line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, Protocol, get_args

from ...eviction.random import mix

Name = Literal[
    "fcfs",
    "lpm",
    "dfs-weight",
    "lof",
    "shortest-prefill-first",
    "hrrn",
    "routing-key",
    "random",
]
NAMES: tuple[str, ...] = get_args(Name)
CACHE_AWARE = ("lpm", "dfs-weight", "hrrn", "shortest-prefill-first")
MOST_MATCHED = 128  #: above so many waiting, lpm and hrrn take the line as it is
CHECK_IN_BATCH, DEFER_IN_BATCH = 32, 32  #: tokens, of the in-batch prefix rule
TOUCH_EVERY = 32  #: passes between two in which waiting prefixes count as used


@dataclass(slots=True)
class Waiting:
    """A request in line, as the orders see it.

    Attributes:
        handle: the host's.
        name: breaks hrrn's ties.
        known_tokens: prompt, and answer so far where it lost its KV.
        priority: as the client gave it.
        queued: when it joined the line, by any clock.
        routing_key: what requests with shared context have in common; "" for nothing.
        arrived_tokens: prompt tokens that the engine had computed when it joined.
        prefix: tokens found in the cache; `matched`: the same, one token left to compute.
    """

    handle: Any
    name: Any
    prompt_tokens: int
    known_tokens: int
    max_new_tokens: int
    priority: int
    queued: int
    routing_key: str = ""
    arrived_tokens: int = 0
    prefix: int = 0
    matched: int = 0

    @property
    def work(self) -> int:
        """Tokens of it that must be computed."""
        return max(1, self.known_tokens - self.matched)


class Scratch(Protocol):
    """The prompts looked at in one pass."""

    def agree(self, handle: Any) -> int:
        """Tokens that a prompt shares, from its start, with one that was added."""

    def add(self, handle: Any) -> None:
        """Remember a prompt."""


class Lookups(Protocol):
    """What the orders ask of the cache."""

    def lookup(self, handle: Any) -> int:
        """Tokens of a waiting request that are cached; this counts as a use."""

    def scratch(self) -> Scratch:
        """An empty set of prompts."""

    def by_weight(self, handles: Sequence[Any]) -> list[int]:
        """Indices of requests that were looked up, in dfs-weight order of the cache's tree."""


class LineOrder:
    """Sorts the line in place before each prefill; equals stay as they were.

    Method: sglang 0.5.23 `managers/schedule_policy.py SchedulePolicy`; fcfs, lpm, dfs-weight, lof,
    shortest-prefill-first and priorities decide as recorded (`infersim conform`), hrrn,
    routing-key and random are from reading.

    Args:
        policy: SGLang's schedule_policy.
        cached: there is a prefix cache; without it the cache-aware orders are fcfs.
        priorities: SGLang's enable_priority_scheduling (fcfs and lof look at it).
        low_first: SGLang's schedule_low_priority_values_first.
        seed: of the order "random".
    """

    def __init__(
        self,
        policy: str,
        *,
        cached: bool = True,
        priorities: bool = False,
        low_first: bool = False,
        seed: int = 0,
    ) -> None:
        self.policy = "fcfs" if policy in CACHE_AWARE and not cached else policy
        self._priorities, self._sign = priorities, 1 if low_first else -1
        self._seed, self._draws = seed, 0

    def looks_up(self, waiting: int) -> bool:
        """Whether a line of so many is matched with the cache."""
        if self.policy in ("lpm", "hrrn") and waiting > MOST_MATCHED:
            return False
        return self.policy in CACHE_AWARE

    @property
    def cache_aware(self) -> bool:
        """Whether it is an order by what is cached, however long the line."""
        return self.policy in CACHE_AWARE

    @property
    def keeps_line(self) -> bool:
        """Whether the line stays as requests joined it."""
        return self.policy == "fcfs" and not self._priorities

    def sort(
        self,
        line: list[Waiting],
        lookups: Lookups,
        *,
        running_keys: Iterable[str] = (),
        computed_tokens: int = 0,
    ) -> None:
        """Put *line* in order.

        Args:
            running_keys: the routing keys of running requests.
            computed_tokens: prompt tokens that the engine has computed so far.
        """
        if self.looks_up(len(line)):
            self._sort_by_cache(line, lookups, computed_tokens)
        elif self.policy == "fcfs" and self._priorities:
            line.sort(key=lambda one: (one.priority * self._sign, one.queued))
        elif self.policy == "lof" and self._priorities:
            line.sort(key=lambda one: (one.priority * self._sign, -one.max_new_tokens))
        elif self.policy == "lof":
            line.sort(key=lambda one: -one.max_new_tokens)
        elif self.policy == "random":
            self._shuffle(line)
        elif self.policy == "routing-key":
            self._sort_by_routing_key(line, running_keys)

    def _shuffle(self, line: list[Waiting]) -> None:
        """Any order, each with the same chance (Fisher and Yates)."""
        for i in range(len(line) - 1, 0, -1):
            self._draws += 1
            j = mix(self._seed, i, self._draws) % (i + 1)
            line[i], line[j] = line[j], line[i]

    def _sort_by_cache(self, line: list[Waiting], lookups: Lookups, computed: int) -> None:
        deferred = self._look_up(line, lookups)
        if self.policy == "lpm":
            line.sort(key=lambda one: inf if id(one) in deferred else -one.matched)
        elif self.policy == "shortest-prefill-first":
            line.sort(key=lambda one: (id(one) in deferred, one.work, one.queued))
        elif self.policy == "hrrn":
            line.sort(key=lambda one: (_response(one, computed, id(one) in deferred), one.name))
        else:
            order = lookups.by_weight([one.handle for one in line])
            line[:] = [line[i] for i in order]

    def _look_up(self, line: list[Waiting], lookups: Lookups) -> set[int]:
        """Match the line with the cache; those whose prefix another of the line will bring."""
        deferred: set[int] = set()
        scratch = lookups.scratch()
        for one in line:
            one.prefix = lookups.lookup(one.handle)
            one.matched = min(one.prefix, max(one.known_tokens - 1, 0))
            if one.prefix > CHECK_IN_BATCH:
                continue
            if scratch.agree(one.handle) >= DEFER_IN_BATCH:
                deferred.add(id(one))
            else:
                scratch.add(one.handle)
        return deferred

    def _sort_by_routing_key(self, line: list[Waiting], running: Iterable[str]) -> None:
        counts = Counter(key for key in running if key)
        if counts:
            line.sort(key=lambda one: _kinship(one.routing_key, counts))


def _response(one: Waiting, computed: int, deferred: bool) -> float:
    """Minus how much of its own work the engine has done for others since it joined."""
    if deferred:
        return inf
    uncached = max(0, one.prompt_tokens - one.matched)
    if not uncached:
        return -inf
    return -(max(0, computed - one.arrived_tokens) / uncached)


def _kinship(key: str, counts: Counter[str]) -> tuple[int, int, str]:
    return (0, -counts[key], key) if key in counts else (1, 0, key)


def reserved_chunk(line: Iterable[Waiting], left: int, budget: int, page: int) -> int | None:
    """The most that a prompt with *left* tokens to go may take so that shorter ones join it.

    shortest-prefill-first only; None: as much as there is.
    """
    if budget < 2 * page:
        return None
    reserved = 0
    for one in line:
        charge = -(-one.work // page) * page
        if one.work >= left or reserved + charge > budget - page:
            break
        reserved += charge
    return (budget - reserved) // page * page if reserved else None
