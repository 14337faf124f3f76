"""Does each technique help where it should, and hurt where it should? Five seeds, paired.

    python benchmarks/directions.py [NAME …] [--seeds N] [--jobs N]

Each check runs a shipped scenario in two cells that differ in one policy, with the same seeds, and
looks at the ratio of one metric: its mean over the seeds and the 95 % interval of that mean
(Student's t, paired by seed). A check holds when all of the interval lies where it should;
exit 1 when one does not. The table is that of docs/directions.md.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from statistics import mean, stdev
from typing import NamedTuple

from infersim.reports.metrics.summary import summarize
from infersim.scenarios import build, grid, load

#: two-sided 95 % quantiles of Student's t by degrees of freedom
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Check(NamedTuple):
    """The metric in the cell *new* over that in the cell *old*, which should lie in a range."""

    name: str
    scenario: str
    settings: tuple[str, ...]
    old: str
    new: str
    metric: str
    low: float
    high: float


FCFS = "policies.order=fcfs"
SPF = "policies.order=shortest-prefill-first"
AGING = "policies.order={name: shortest-prefill-first, aging_tokens_per_s: 2000}"
MLFQ = "policies.order={name: mlfq, quantum_steps: 32, promote_after_s: 60}"
SMALL = "policies.scheduling={name: sarathi, chunk_tokens: 256}"
LARGE = "policies.scheduling={name: sarathi, chunk_tokens: 8192}"
VLLM, VTC = "policies.scheduling=vllm-v1", "policies.scheduling=vtc"
LRU, TTL = "policies.eviction=lru", "policies.eviction=session-ttl"
GONE = "policies.eviction={name: session-ttl, expired_first: true}"
PLENTY, TIGHT = ("cluster.kv_blocks=34000",), ("cluster.kv_blocks=8000",)
FLOW = "policies.eviction=workflow-aware"
CHAIN = ("cluster.engine.prefix_index=hash-chain",)
NO_MORE = (
    "workload.rounds=15",
    "workload.ends_early=0.3",
    "workload.workflow_types.count=15",
    "workload.concurrency=2",
)
POOLS = "policies.eviction={name: modality-aware, media_share: 0.1}"
POPULAR = ("workload.images.count=12",)
LINE, LPM, DFS = (
    f"cluster.engine.schedule_policy={name}" for name in ("fcfs", "lpm", "dfs-weight")
)

SPLIT = "policies.disaggregation={name: static-split, transfer: push}"
ROLES = "policies.disaggregation={name: role-switching, transfer: push}"
BURSTS = (
    "workload.rounds=12",
    "workload.phases[0].duration_s=5",
    "workload.phases[1].duration_s=5",
)

CHECKS = (
    Check("short prompts first", "prompt_order", (), FCFS, SPF, "ttft_s.mean", 0.80, 0.84),
    Check("… starves long ones", "prompt_starvation", (), FCFS, SPF, "ttft_s.p99", 1.0, 99),
    Check("… until aging is on", "prompt_starvation", (), SPF, AGING, "ttft_s.p99", 0, 1.0),
    Check("feedback queue: mean", "feedback_queue", (), FCFS, MLFQ, "e2e_s.mean", 0, 1.0),
    Check("feedback queue: tail", "feedback_queue", (), FCFS, MLFQ, "e2e_s.p99", 1.0, 99),
    Check("small chunks: gaps", "chunk_budget", (), LARGE, SMALL, "itl_s.p99", 0, 1.0),
    Check("small chunks: first token", "chunk_budget", (), LARGE, SMALL, "ttft_s.mean", 1.0, 99),
    Check("fair share", "tenants", (), VLLM, VTC, "fairness.jain_service", 1.0, 99),
    Check("KV kept while tools run", "agent_tools", (), LRU, TTL, "hit_rate", 1.0, 99),
    Check("… with memory to spare", "agent_tools", PLENTY, LRU, TTL, "hit_rate", 0.99, 1.005),
    Check("… or given up when late", "agent_tools", (), LRU, GONE, "hit_rate", 1.0, 99),
    Check("… late ones given up", "agent_tools", PLENTY, LRU, GONE, "hit_rate", 0, 1.0),
    Check("… with far too little", "agent_tools", TIGHT, LRU, TTL, "hit_rate", 0, 1.0),
    Check("KV kept for the next turn", "agent_workflow", (), LRU, FLOW, "hit_rate", 1.0, 99),
    Check("… on a hash chain", "agent_workflow", CHAIN, LRU, FLOW, "hit_rate", 1.0, 99),
    Check("… that never comes", "agent_workflow", NO_MORE, LRU, FLOW, "hit_rate", 0, 1.0),
    Check("a pool for images", "image_pools", (), LRU, POOLS, "hit_rate", 1.0, 99),
    Check("… that come back", "image_pools", POPULAR, LRU, POOLS, "hit_rate", 0, 1.0),
    Check("longest prefix first", "prefix_tree", (), LINE, LPM, "hit_rate", 1.0, 99),
    Check("depth first", "prefix_tree", (), LINE, DFS, "hit_rate", 1.0, 99),
    Check("… against longest prefix", "prefix_tree", (), LPM, DFS, "hit_rate", 0.97, 1.03),
    Check("roles follow the load", "role_switching", (), SPLIT, ROLES, "ttft_s.mean", 0, 1.0),
    Check("… bursts are too short", "role_switching", BURSTS, SPLIT, ROLES, "goodput_rps", 0, 1.0),
)


def measured(check: Check, setting: str, seed: int) -> float:
    """The metric of one cell and seed."""
    source = load.read(check.scenario, ["compare=null", *check.settings, setting], seed)
    _, (cell,) = grid.cells(source)
    simulated = build.simulate_cell(cell, source.folders, leap=True, progress=lambda *told: None)
    found = summarize(simulated.records)
    for key in check.metric.split("."):
        found = found[key]
    return float(found)  # type: ignore[arg-type]


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """(mean, low, high) of the 95 % interval of the mean."""
    middle = mean(ratios)
    half = T95[len(ratios) - 1] * stdev(ratios) / len(ratios) ** 0.5
    return middle, middle - half, middle + half


def main() -> int:
    """Run the checks and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of scenarios or checks")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--jobs", type=int, default=None)
    options = parser.parse_args()
    checks = [
        check
        for check in CHECKS
        if not options.names
        or any(check.scenario.startswith(n) or check.name.startswith(n) for n in options.names)
    ]
    seeds = range(1, options.seeds + 1)
    print("| check | scenario | metric | new / old | 95 % interval | should be | holds |")
    print("|---|---|---|---|---|---|---|")
    wrong = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        jobs = {
            (check, setting, seed): pool.submit(measured, check, setting, seed)
            for check in checks
            for setting in (check.old, check.new)
            for seed in seeds
        }
        for check in checks:
            ratios = [
                jobs[check, check.new, seed].result() / jobs[check, check.old, seed].result()
                for seed in seeds
            ]
            middle, low, high = interval(ratios)
            inside = check.low < middle < check.high
            holds = inside if check.low and check.high < 99 else check.low < low < high < check.high
            wrong += not holds
            should = (
                "below 1"
                if not check.low
                else "above 1"
                if check.high == 99
                else f"{check.low:.2f}–{check.high:.2f}"
            )
            print(
                f"| {check.name} | {check.scenario} | {check.metric} | {middle:.3f} | "
                f"{low:.3f}–{high:.3f} | {should} | {'yes' if holds else 'NO'} |",
                flush=True,
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
