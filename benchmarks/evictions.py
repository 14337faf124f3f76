"""What a block costs in the pool by eviction, beside lru, and what declaring looks saves.

    python benchmarks/evictions.py [TRACE] [--eviction lru,lfu,…] [--repeat N]

A trace with block ids (or generated chats) goes through eight replicas behind round-robin, twice
for each eviction: as it is, and with a policy that declares nothing of what it looks at
(`Eviction.reads`), so that every block is described in full and asked about alone. All policies
both ways in turn, N times, the best of each; lru is in block by block as well. Leaves with 1 when
a single decision differs.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from typing import Any

from infersim.policies.registry import eviction
from infersim.policies.types import Request, Segment
from infersim.scenarios.cache.cluster import Cluster, Placed, Shape
from infersim.scenarios.cache.visits import Visit, visits_of
from infersim.scenarios.traces.load import load
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.blocks import BlockPool

REPLICAS, BLOCK = 8, 512
ALL = [name for name, cls in eviction if not cls.promise.oracle]


def generated(count: int = 6000) -> list[Visit]:
    """Chats that take turns: each prompt is the last one and up to four blocks more."""
    draws, chains = random.Random(1), Chains()
    lengths: dict[int, int] = {}
    out = []
    for number in range(count):
        chat = draws.randrange(max(1, number // 8), number // 8 + 200)
        lengths[chat] = lengths.get(chat, 4) + draws.randint(1, 4)
        prompt = (Segment(chat, 0, lengths[chat] * BLOCK),)
        request = Request(number, number, prompt, lengths[chat] * BLOCK, 1, -1)
        out.append(Visit(request, chains.chain(prompt)))
    return out


def undeclared(name: str) -> Any:
    """The policy, asked about every block alone."""
    cls = eviction.get(name)
    return type(cls.__name__, (cls,), {"reads": None})()


def run(visits: list[Visit], name: str, blocks: int, *, short: bool) -> tuple[float, Any]:
    """Seconds of processor time, and every decision."""
    make = eviction.get(name) if short else (lambda: undeclared(name))
    placed = [number % REPLICAS for number in range(len(visits))]
    cluster = Cluster(Shape(REPLICAS, blocks, BLOCK), lambda _: make(), Placed(placed))
    for replica in cluster.replicas:
        replica.pool = pool = BlockPool(blocks, BLOCK, make())
        pool.evicted_keys = []
    start = time.process_time()
    outcome = cluster.serve(visits)
    spent = time.process_time() - start
    return spent, (outcome, [getattr(r.pool, "evicted_keys", None) for r in cluster.replicas])


def main() -> int:
    """Measure, print a line an eviction, and say whether all decisions were equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace", nargs="?")
    parser.add_argument("--eviction", default=",".join(ALL))
    parser.add_argument("--blocks", type=int, default=2000, help="of a replica")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    visits = list(visits_of(load(options.trace), 60.0).requests) if options.trace else generated()
    asked = sum(-(-request.prompt_tokens // BLOCK) for request, _ in visits)
    print(f"{len(visits):,} requests, {asked:,} blocks asked for")
    print(f"{'eviction':15} {'us/block':>9} {'to lru':>7} {'undeclared':>11} {'evicted':>9}")
    names = list(dict.fromkeys(["lru", *options.eviction.split(",")]))
    times: dict[tuple[str, bool], float] = {}
    found: dict[tuple[str, bool], Any] = {}
    for _ in range(options.repeat):
        for way in itertools.product(names, (True, False)):
            spent, found[way] = run(visits, way[0], options.blocks, short=way[1])
            times[way] = min(spent, times.get(way, spent))
    unequal = 0
    for name in names:
        fast, slow = (1e6 * times[name, short] / asked for short in (True, False))
        wrong = found[name, True] != found[name, False]
        unequal += wrong
        print(
            f"{name:15} {fast:9.2f} {times[name, True] / times['lru', True]:7.2f} {slow:11.2f} "
            f"{found[name, True][0].evicted_blocks:9,}" + ("  DIFFERS" if wrong else ""),
        )
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
