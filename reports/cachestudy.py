"""What a replay of caches (`infersim cache --routing`) says: effects of routing and of eviction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = dict[str, Any]
LRU, SHARED = "lru", "one cache"


@dataclass(frozen=True)
class Part:
    """The rows of one trace.

    Attributes:
        name: the trace.
        facts: what is known of it, see `scenarios.cache.study.Study.facts`.
        rows: its results.
        replicas: how many serve it.
        sizes: KV of a replica in tokens, smallest first, at which everything is compared.
    """

    name: str
    facts: dict[str, Any]
    rows: Sequence[Row]
    replicas: int
    sizes: Sequence[int]

    @property
    def routings(self) -> list[str]:
        """As compared."""
        return list(dict.fromkeys(r["routing"] for r in self.rows if r["routing"] != SHARED))

    @property
    def evictions(self) -> list[str]:
        """As compared; lru is always there."""
        return list(dict.fromkeys(row["eviction"] for row in self.rows))

    @property
    def oracles(self) -> set[str]:
        """Evictions that read the future."""
        return {row["eviction"] for row in self.rows if row["oracle"]}

    def rate(self, eviction: str, routing: str, size: int, block: int | None = None) -> float:
        """A hit rate, 0..1; *size* 0 is no limit, *block* None the study's block.

        Raises:
            KeyError: it was not replayed.
        """
        wanted = eviction, routing, size, block or self.facts["block_tokens"]
        for row in self.rows:
            found = row["eviction"], row["routing"], row["kv_tokens"], row["block_tokens"]
            if found == wanted:
                rate: float = row["hit_rate"]
                return rate
        raise KeyError(wanted)

    def curve(self, eviction: str, routing: str) -> list[tuple[int, float]]:
        """Size and hit rate wherever it was replayed with a limit, smallest first."""
        block = self.facts["block_tokens"]
        return sorted(
            (row["kv_tokens"], row["hit_rate"])
            for row in self.rows
            if (row["eviction"], row["routing"], row["block_tokens"]) == (eviction, routing, block)
            and row["kv_tokens"]
        )

    @property
    def ideal(self) -> float:
        """One cache without a limit."""
        return self.rate(LRU, SHARED, 0)

    def best_routing(self, size: int) -> str:
        """That with which lru hits most; the first of equals."""
        return max(self.routings, key=lambda routing: self.rate(LRU, routing, size))

    def ranked(self) -> list[str]:
        """Evictions, oracles first, then by their mean over everything compared."""
        means = {
            e: sum(self.rate(e, r, s) for r in self.routings for s in self.sizes)
            for e in self.evictions
        }
        return sorted(means, key=lambda e: (e not in self.oracles, -means[e], e))

    def routing_effect(self, eviction: str, size: int) -> float:
        """Between the best and the worst router."""
        rates = [self.rate(eviction, routing, size) for routing in self.routings]
        return max(rates) - min(rates)

    def eviction_effect(self, routing: str, size: int) -> float:
        """Between the best and the worst eviction that does not read the future."""
        rates = [self.rate(e, routing, size) for e in self.evictions if e not in self.oracles]
        return max(rates) - min(rates)

    def over_lru(self, routing: str, size: int) -> tuple[str, float]:
        """The best eviction that does not read the future, and what it adds to lru."""
        known = [e for e in self.evictions if e not in self.oracles]
        best = max(known, key=lambda e: (self.rate(e, routing, size), e == LRU))
        return best, self.rate(best, routing, size) - self.rate(LRU, routing, size)

    def typical(self, size: int) -> tuple[float, float]:
        """The effect of the router (median over evictions) and of the eviction (over routers)."""
        known = [e for e in self.evictions if e not in self.oracles]
        return (
            median(self.routing_effect(e, size) for e in known),
            median(self.eviction_effect(r, size) for r in self.routings),
        )


def parts(rows: Sequence[Row], facts: dict[str, Any]) -> list[Part]:
    """The traces of a study, in its order."""
    return [
        Part(
            name,
            about,
            [r for r in rows if r["trace"] == name],
            facts["replicas"],
            facts["kv_tokens"],
        )
        for name, about in facts["traces"].items()
    ]


def verdict(found: Sequence[Part]) -> str:
    """Whether routing or eviction moves the hit rate more, in one sentence."""
    cases = [part.typical(size) for part in found for size in part.sizes]
    routing = sum(by_router > by_eviction for by_router, by_eviction in cases)
    if 2 * routing == len(cases):
        return (
            f"Routing and eviction each move the hit rate more in {routing} of {len(cases)} cases."
        )
    more, less = ("Routing", "eviction") if 2 * routing > len(cases) else ("Eviction", "routing")
    count = max(routing, len(cases) - routing)
    return f"{more} moves the hit rate more than {less} in {count} of {len(cases)} cases."
