"""One run of one simulator on a trace file, in the interpreter that has it: `peers.py` starts this.

    python benchmarks/players.py infersim|dynamo|leap CASE.json TRACE.jsonl

CASE is what `peers.Case` writes; the last line printed is a JSON object: CPU seconds of importing
(start_s), from the trace file to the results (work_s) and of the simulation alone (loop_s), and
what was simulated. This file imports nothing of infersim's but where infersim plays, since the
others live in environments of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def rows_of(trace: Path) -> list[tuple[int, int, int]]:
    """(arrival in ns, prompt tokens, output tokens) of a Mooncake-style file."""
    with trace.open() as lines:
        return [
            (round(row["timestamp"] * 1e6), row["input_length"], row["output_length"])
            for row in map(json.loads, lines)
        ]


def outcome(
    arrival_s: Sequence[float], first_s: Sequence[float], last_s: Sequence[float], out: list[int]
) -> dict[str, float]:
    """What users of a simulator look at, from the times of each request."""
    import numpy as np

    arrival, first, last = (np.asarray(times) for times in (arrival_s, first_s, last_s))
    tokens = np.asarray(out)
    several = tokens > 1
    ttft = first - arrival
    return {
        "ttft_ms": 1e3 * float(ttft.mean()),
        "ttft_p99_ms": 1e3 * float(np.percentile(ttft, 99)),
        "tpot_ms": 1e3 * float(((last - first)[several] / (tokens[several] - 1)).mean()),
        "tokens_per_s": float(tokens.sum() / (last.max() - arrival.min())),
    }


def infersim(case: dict[str, Any], trace: Path) -> dict[str, Any]:
    """`simulate()` with the engine preset vllm-v1's scheduler, as `speed.py` sets it up."""
    start = time.process_time()
    from speed import Rows

    from infersim.policies.disaggregation.static import Colocated
    from infersim.policies.eviction.lru import Lru
    from infersim.policies.routing.simple import RoundRobin
    from infersim.policies.scheduling.vllm_v1 import VllmV1
    from infersim.sim.cost.base import StepShape
    from infersim.sim.cost.linear import LinearCost
    from infersim.sim.engine.run import simulate
    from infersim.sim.state.config import ClusterConfig, EngineLimits, PoolConfig

    class LikeDynamo(LinearCost):
        """Prompt tokens by rounded means of chunks; steps that sample nothing take only these."""

        def duration_ps(self, shape: StepShape) -> int:
            chunks, old = len(shape.prefills), sum(old for _, old in shape.prefills)
            new = sum(new for new, _ in shape.prefills)
            counted = chunks and chunks * ((new + old) // chunks - old // chunks)
            if not shape.samples:
                return self.per_prefill_token_ps * counted
            return super().duration_ps(shape) - self.per_prefill_token_ps * (new - counted)

    ready = time.process_time()
    rows = rows_of(trace)
    limits = EngineLimits(
        case["blocks"],
        max_num_batched_tokens=case["budget"],
        max_num_seqs=case["sequences"],
        prefix_caching=False,
        async_scheduling=False,
    )
    cost = LikeDynamo(*(1000 * case[name] for name in ("base_ns", "token_ns")), *per_context(case))
    pool = PoolConfig("serve", "both", case["workers"], limits, cost, VllmV1, Lru, 131_072)
    config = ClusterConfig((pool,), RoundRobin(), Colocated())
    workload = Rows([(1000 * at, prompt, out) for at, prompt, out in rows])
    read = time.process_time()
    run = simulate(config, workload)
    end = time.process_time()
    seconds = [run.requests[f"{name}_ps"] / 1e12 for name in ("arrival", "first_token", "finish")]
    return {
        "start_s": ready - start,
        "work_s": end - ready,
        "loop_s": end - read,
        "steps": run.effort.steps,
        "events": run.effort.events,
        **outcome(*seconds, run.requests["output_tokens"].tolist()),
    }


def per_context(case: dict[str, Any]) -> tuple[int, int]:
    """Ps a sequence and a context token: Dynamo prices whole blocks, 7.5 tokens more on average."""
    return 7_500 * case["context_ns"], 1_000 * case["context_ns"]


def leap(case: dict[str, Any], trace: Path) -> dict[str, Any]:
    """The bare prototype of the engine's loop: ``leap.py`` in the folder ``case["leap"]``."""
    start = time.process_time()
    sys.path.insert(0, case["leap"])
    import leap as prototype

    ready = time.process_time()
    rows = rows_of(trace)
    arrival, prompt, out = ([row[i] for row in rows] for i in range(3))
    sequence_ps, context_ps = per_context(case)
    config = prototype.Config(
        case["sequences"],
        case["budget"],
        case["blocks"],
        case["base_ns"],
        case["token_ns"],
        sequence_ps // 1000,
        context_ps // 1000,
    )
    read = time.process_time()
    run = prototype.simulate(arrival, prompt, out, case["workers"], config)
    end = time.process_time()
    return {
        "start_s": ready - start,
        "work_s": end - ready,
        "loop_s": end - read,
        "steps": run.steps,
        "events": run.events,
        **outcome(*([t / 1e9 for t in times] for times in (arrival, run.first, run.last)), out),
    }


def dynamo(case: dict[str, Any], trace: Path) -> dict[str, Any]:
    """``dynamo.replay`` offline, step times from a table that is linear in the KV tokens held."""
    start = time.process_time()
    from dynamo.mocker import MockEngineArgs
    from dynamo.replay import run_trace_replay

    ready = time.process_time()
    engine = MockEngineArgs.from_json(json.dumps(engine_arguments(case, table_beside(trace))))
    report = run_trace_replay(
        trace,
        extra_engine_args=engine,
        num_workers=case["workers"],
        replay_mode="offline",
        router_mode="round_robin",
        trace_block_size=case["trace_block"],
    )
    worked_s = time.process_time() - ready
    return {"start_s": ready - start, "work_s": worked_s, **told(report)}


def told(report: dict[str, float]) -> dict[str, float]:
    """What Dynamo reports, in our names; its clock for the loop is the wall's."""
    return {
        "loop_s": report["wall_time_ms"] / 1e3,
        "ttft_ms": report["mean_ttft_ms"],
        "ttft_p99_ms": report["p99_ttft_ms"],
        "tpot_ms": report["mean_tpot_ms"],
        "tokens_per_s": report["output_throughput_tok_s"],
    }


def table_beside(trace: Path) -> Path:
    """Where Dynamo's step times are."""
    return trace.with_name("dynamo.npz")


def write_table(case: dict[str, Any], path: Path) -> None:
    """Dynamo's step times: lines, which it interpolates, in prompt tokens and in KV tokens."""
    import numpy as np

    ends = np.array([0.0, 1e6])
    decode_ms = (case["base_ns"] + case["context_ns"] * ends) / 1e6
    np.savez(
        path,
        prefill_isl=ends,
        prefill_ttft_ms=case["token_ns"] * ends / 1e6,
        decode_active_kv_tokens=ends,
        decode_context_length=ends,
        decode_itl=np.repeat(decode_ms[:, None], 2, axis=1),
    )


def engine_arguments(case: dict[str, Any], table: Path) -> dict[str, Any]:
    """Of Dynamo's mocker."""
    return {
        "block_size": 16,
        "num_gpu_blocks": case["blocks"],
        "max_num_batched_tokens": case["budget"],
        "max_num_seqs": case["sequences"],
        "enable_prefix_caching": False,
        "planner_profile_data": str(table),
    }


PLAYERS = {"infersim": infersim, "dynamo": dynamo, "leap": leap}

if __name__ == "__main__":
    name, case_file, trace_file = sys.argv[1:]
    played = PLAYERS[name](json.loads(Path(case_file).read_text()), Path(trace_file))
    print(json.dumps(played))
