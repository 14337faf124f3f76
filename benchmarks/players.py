"""One run of one simulator on a trace file, in the interpreter that has it: `peers.py` starts this.

    python benchmarks/players.py infersim|dynamo|vidur|leap CASE.json TRACE.jsonl

CASE is what `peers.Case` writes; the last line printed is a JSON object: CPU seconds of importing
(start_s), from the trace file to the results (work_s) and of the simulation alone (loop_s), and
what was simulated. The first token of each request goes to the file that the case names, if any.
This file imports nothing of infersim's but where infersim plays: the others have environments of
their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

#: of a request of Dynamo's: they come in the order in which they end
SERVED = ("arrival_time_ms", "input_length", "output_length")


def rows_of(trace: Path) -> list[tuple[int, int, int]]:
    """(arrival in ns, prompt tokens, output tokens) of a Mooncake-style file."""
    with trace.open() as lines:
        return [
            (round(row["timestamp"] * 1e6), row["input_length"], row["output_length"])
            for row in map(json.loads, lines)
        ]


def outcome(
    case: dict[str, Any],
    arrival_s: Sequence[float],
    first_s: Sequence[float],
    last_s: Sequence[float],
    out: list[int],
) -> dict[str, float]:
    """What users of a simulator look at, from the times of each request, in order of arrival."""
    import numpy as np

    arrival, first, last = (np.asarray(times) for times in (arrival_s, first_s, last_s))
    tokens = np.asarray(out)
    several = tokens > 1
    ttft = first - arrival
    keep(case, (1e3 * ttft).tolist())
    return {
        "ttft_ms": 1e3 * float(ttft.mean()),
        "ttft_p99_ms": 1e3 * float(np.percentile(ttft, 99)),
        "tpot_ms": 1e3 * float(((last - first)[several] / (tokens[several] - 1)).mean()),
        "tokens_per_s": float(tokens.sum() / (last.max() - arrival.min())),
    }


def keep(case: dict[str, Any], ttft_ms: list[float]) -> None:
    """Write when each request got its first token, if the case asks for it."""
    if case["times"]:
        Path(case["times"]).write_text(json.dumps(ttft_ms))


def infersim(case: dict[str, Any], trace: Path) -> dict[str, Any]:
    """`simulate()` with the engine preset vllm-v1's scheduler, as `speed.py` sets it up."""
    start = time.process_time()
    import numpy as np

    from infersim.policies.disaggregation.static import Colocated
    from infersim.policies.eviction.lru import Lru
    from infersim.policies.routing.simple import RoundRobin
    from infersim.policies.scheduling.vllm_v1 import VllmV1
    from infersim.scenarios.workload.trace import TraceSpec
    from infersim.sim.cost.base import StepShape
    from infersim.sim.cost.linear import LinearCost
    from infersim.sim.engine.run import simulate
    from infersim.sim.state.config import ClusterConfig, EngineLimits, PoolConfig
    from infersim.sim.state.content import Contents
    from infersim.sim.state.streams import Streams

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
    requests = TraceSpec(kind="trace", file=str(trace), format="mooncake")
    workload = requests.build(Streams(1), Contents())
    limits = EngineLimits(
        case["blocks"],
        max_num_batched_tokens=case["budget"],
        max_num_seqs=case["sequences"],
        prefix_caching=case["caching"],
        async_scheduling=False,
    )
    cost = LikeDynamo(*(1000 * case[name] for name in ("base_ns", "token_ns")), *per_context(case))
    pool = PoolConfig("serve", "both", case["workers"], limits, cost, VllmV1, Lru, 131_072)
    config = ClusterConfig((pool,), RoundRobin(), Colocated())
    read = time.process_time()
    run = simulate(config, workload)
    end = time.process_time()
    columns = run.requests
    order = np.lexsort([columns[name] for name in ("output_tokens", "prompt_tokens", "arrival_ps")])
    names = ("arrival_ps", "first_token_ps", "finish_ps", "output_tokens")
    arrival, first, last, tokens = (columns[name][order] for name in names)
    return {
        "start_s": ready - start,
        "work_s": end - ready,
        "loop_s": end - read,
        "steps": run.effort.steps,
        "events": run.effort.events,
        "hit_rate": float(columns["hit_tokens"].sum() / columns["prompt_tokens"].sum()),
        **outcome(case, arrival / 1e12, first / 1e12, last / 1e12, tokens.tolist()),
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
        **outcome(case, *([t / 1e9 for t in ns] for ns in (arrival, run.first, run.last)), out),
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
        report_jsonl_path=case["times"],
    )
    worked_s = time.process_time() - ready
    if case["times"]:
        with Path(case["times"]).open() as lines:
            served = sorted(map(json.loads, lines), key=itemgetter(*SERVED))
        keep(case, [row["ttft_ms"] for row in served])
    return {"start_s": ready - start, "work_s": worked_s, **told(report)}


def told(report: dict[str, float]) -> dict[str, float]:
    """What Dynamo reports, in our names; its clock for the loop is the wall's."""
    return {
        "loop_s": report["wall_time_ms"] / 1e3,
        "ttft_ms": report["mean_ttft_ms"],
        "ttft_p99_ms": report["p99_ttft_ms"],
        "tpot_ms": report["mean_tpot_ms"],
        "tokens_per_s": report["output_throughput_tok_s"],
        "hit_rate": report["prefix_cache_reused_ratio"],
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
        "enable_prefix_caching": case["caching"],
        "planner_profile_data": str(table),
    }


def vidur(case: dict[str, Any], trace: Path) -> dict[str, Any]:
    """Vidur with its Sarathi scheduler, metrics off, and the step time in place of its forests."""
    start = time.process_time()
    from vidur._native.entities import ExecutionTime
    from vidur.config import config as options
    from vidur.execution_time_predictor import (
        BaseExecutionTimePredictor,
        ExecutionTimePredictorRegistry,
    )
    from vidur.simulator import Simulator
    from vidur.types import ExecutionTimePredictorType

    class Linear(BaseExecutionTimePredictor):
        def get_execution_time(self, batch: Any, pipeline_stage: int) -> Any:
            tokens = sum(new for new in batch.num_q_tokens if new > 1)
            held = sum(batch.num_kv_tokens) + 7.5 * len(batch.num_kv_tokens)
            ns = case["base_ns"] + case["token_ns"] * tokens + case["context_ns"] * held
            layers = self._num_layers_per_pipeline_stage
            return ExecutionTime(layers, *[0.0] * 11, ns / 1e6 / layers, 0.0, 0.0)

    Linear.__abstractmethods__ = frozenset()
    kind = ExecutionTimePredictorType.LINEAR_REGRESSION
    ExecutionTimePredictorRegistry.unregister(kind)
    ExecutionTimePredictorRegistry.register(kind, Linear)
    ready = time.process_time()
    table = trace.with_name("vidur.csv")
    lines = (f"0,{at / 1e9},{prompt},{answer}\n" for at, prompt, answer in rows_of(trace))
    table.write_text("Date,Time,PromptTokenCount,CompletionTokenCount\n" + "".join(lines))
    os.chdir(trace.parent)  # it writes where it stands
    configured = options.SimulationConfig(
        cluster_config=options.ClusterConfig(
            num_replicas=case["workers"],
            replica_config=options.ReplicaConfig(num_pipeline_stages=1, tensor_parallel_size=1),
            cache_config=options.CacheConfig(
                num_blocks=case["blocks"], watermark_blocks_fraction=0.0
            ),
            replica_scheduler_config=options.SarathiSchedulerConfig(
                batch_size_cap=case["sequences"], chunk_size=case["budget"]
            ),
        ),
        request_generator_config=options.TraceRequestGeneratorConfig(
            trace_file=str(table),
            date=0,
            prefill_scale_factor=1,
            time_scale_factor=1,
            max_tokens=131_072,
        ),
        execution_time_predictor_config=options.LinearRegressionExecutionTimePredictorConfig(),
        metrics_config=options.MetricsConfig(
            write_metrics=False, enable_chrome_trace=False, store_plots=False
        ),
    )
    simulator = Simulator(configured)
    requests = [event._request for _, event in simulator._event_queue]
    read = time.process_time()
    simulator.run()
    end = time.process_time()
    requests.sort(key=lambda request: request.arrived_at)
    names = ("arrived_at", "prefill_completed_at", "completed_at")
    times = ([getattr(request, name) for request in requests] for name in names)
    tokens = [int(request.num_decode_tokens) for request in requests]
    return {
        "start_s": ready - start,
        "work_s": end - ready,
        "loop_s": end - read,
        **outcome(case, *times, tokens),
    }


PLAYERS = {"infersim": infersim, "dynamo": dynamo, "vidur": vidur, "leap": leap}

if __name__ == "__main__":
    name, case_file, trace_file = sys.argv[1:]
    played = PLAYERS[name](json.loads(Path(case_file).read_text()), Path(trace_file))
    print(json.dumps(played))
