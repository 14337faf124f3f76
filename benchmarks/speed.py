"""How fast the simulator is: requests a second of CPU time, and events a request.

    python benchmarks/speed.py [--requests N] [--case NAME …] [--against CHECKOUT]

Every case runs with leaps on and off in this process; the ratio of the two is what to compare
between machines, and events a request do not depend on the machine at all. Step time is 6 ms +
0.02 ms a prefill token + 0.03 ms a sequence + a slope per context token (`LinearCost`), requests
are like Azure's 2023 conversation trace, or fixed; no prefix is shared.

--against runs the same file of another checkout of infersim (``git worktree add CHECKOUT COMMIT``)
after this one and prints the events of both; it leaves with 1 where they differ by more than 10 %.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np

from infersim.policies.disaggregation.static import Colocated
from infersim.policies.eviction.lru import Lru
from infersim.policies.routing.simple import RoundRobin
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.policies.types import Segment
from infersim.sim.cost.linear import LinearCost
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.config import ClusterConfig, EngineLimits, PoolConfig
from infersim.sim.state.session import Arrival, Call


class Rows:
    """An open-loop workload of (arrival_ps, prompt tokens, output tokens)."""

    resources: ClassVar[dict[str, int]] = {}
    closed_loop = False

    def __init__(self, rows: list[tuple[int, int, int]]) -> None:
        self.rows = rows
        self.expected_requests = len(rows)

    def arrivals(self) -> Iterator[Arrival]:
        """Each request with a prompt of its own."""
        for i, (at, prompt, output) in enumerate(self.rows):
            call = Call((Segment(2 * i, 0, prompt),), output, 2 * i + 1, max_tokens=output)
            yield Arrival(at, call)


def azure_like(requests: int, rate_rps: float) -> Rows:
    """Poisson arrivals, lognormal lengths: 1,150 in and 210 out on average."""
    rng = np.random.default_rng(0)
    at = (np.cumsum(rng.exponential(1 / rate_rps, requests)) * 1e12).astype(np.int64).tolist()
    prompt = np.clip(rng.lognormal(np.log(900), 0.7, requests), 1, 8000).astype(int).tolist()
    output = np.clip(rng.lognormal(np.log(150), 0.8, requests), 1, 2000).astype(int).tolist()
    return Rows(list(zip(at, prompt, output, strict=True)))


def at_once(requests: int, prompt: int, output: int) -> Rows:
    """All at time 0."""
    return Rows([(0, prompt, output)] * requests)


def cluster(replicas: int, slope_ps: int, *, asynchronous: bool) -> ClusterConfig:
    """Replicas with 27,000 blocks and a budget of 2,048 tokens."""
    limits = EngineLimits(27_000, async_scheduling=asynchronous, prefix_caching=True)
    cost = LinearCost(6_000_000_000, 20_000_000, 30_000_000, slope_ps)
    pool = PoolConfig("serve", "both", replicas, limits, cost, VllmV1, Lru, 131_072)
    return ClusterConfig((pool,), RoundRobin(), Colocated())


#: name -> (workload of n requests, replicas, ps per context token, asynchronous)
CASES = {
    "1: azure-like, near saturation": (lambda n: azure_like(n, 5.53), 1, 500_000, False),
    "1: azure-like, moderate load": (lambda n: azure_like(n, 5.53), 1, 70_000, False),
    "1: azure-like, moderate, async": (lambda n: azure_like(n, 5.53), 1, 70_000, True),
    "1: azure-like, 16 replicas": (lambda n: azure_like(n, 5.53), 16, 500_000, False),
    "2: 1024/128 at once, 4 replicas": (lambda n: at_once(n, 1024, 128), 4, 70_000, False),
    "3: 1000/4000 at once, 4 replicas": (lambda n: at_once(n // 10, 1000, 4000), 4, 70_000, False),
}


def timed(config: ClusterConfig, workload: Rows, *, leap: bool) -> tuple[Outcome, float]:
    """A run and its CPU seconds."""
    gc.collect()
    start = time.process_time()
    outcome = simulate(config, workload, leap=leap)
    return outcome, time.process_time() - start


def events_of(checkout: Path, words: list[str]) -> dict[str, float]:
    """Events a request by case, as the benchmark of another *checkout* counts them.

    Raises:
        CalledProcessError: it does not run there.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / "infersim").symlink_to(checkout.resolve())
        done = subprocess.run(
            [sys.executable, str(checkout / "benchmarks" / "speed.py"), *words],
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=True,
        )
    lines = done.stdout.splitlines()[1:]
    return {line[:34].strip(): float(line.split()[-1]) for line in lines}


def compare(here: dict[str, float], there: dict[str, float]) -> int:
    """Print the events of both; 1 where they are more than 10 % apart."""
    print(f"\n{'events a request':34} {'here':>8} {'there':>8} {'ratio':>6}")
    worst = 0.0
    for name, events in here.items():
        ratio = events / there[name]
        worst = max(worst, abs(ratio - 1))
        print(f"{name:34} {events:8.2f} {there[name]:8.2f} {ratio:6.2f}")
    return int(worst > 0.1)


def main() -> int:
    """A line a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--case", action="append", help="the beginning of a name")
    parser.add_argument("--against", type=Path, help="another checkout, for its events")
    options = parser.parse_args()
    events: dict[str, float] = {}
    print(f"{'case':34} {'requests':>8} {'leap/s':>8} {'step/s':>8} {'ratio':>6} {'events':>7}")
    for name, (rows, replicas, slope_ps, asynchronous) in CASES.items():
        if options.case and not any(name.startswith(case) for case in options.case):
            continue
        workload = rows(options.requests)
        config = cluster(replicas, slope_ps, asynchronous=asynchronous)
        (leapt, fast_s), (_, slow_s) = (
            timed(config, workload, leap=True),
            timed(config, workload, leap=False),
        )
        n = len(workload.rows)
        events[name] = leapt.effort.events / n
        print(
            f"{name:34} {n:8d} {n / fast_s:8.0f} {n / slow_s:8.0f} {slow_s / fast_s:6.1f} "
            f"{events[name]:7.2f}",
            flush=True,
        )
    if options.against is None:
        return 0
    words = ["--requests", str(options.requests)]
    words += [word for case in options.case or () for word in ("--case", case)]
    return compare(events, events_of(options.against, words))


if __name__ == "__main__":
    sys.exit(main())
