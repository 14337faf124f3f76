"""Whatever is asked of it, under every preset and every registered policy nothing is lost.

The cases come from the registries, so a new policy is in them; hypothesis draws the cluster, the
engine's knobs and the workload, and the scenario is read as a user's file is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from infersim.policies.errors import InfersimError
from infersim.policies.registry import FAMILIES
from infersim.scenarios import build, grid, load
from infersim.scenarios.schema.engine import Engine
from infersim.scenarios.schema.presets import PRESETS
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.kv.radix import RadixIndex
from infersim.sim.state.replica import Replica
from infersim.sim.state.sequence import Sequence
from infersim.sim.state.steps import StepLog

EXAMPLES = settings(
    max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
#: knobs of the presets that are drawn, beside those that are switches or have a few values
BATCHES = ("max_num_seqs", "max_batch_size", "max_num_sequence", "max_running_requests")
BUDGETS = (
    "max_num_batched_tokens",
    "max_num_tokens",
    "max_batch_tokens",
    "max_batch_prefill_tokens",
    "max_prefill_token_num",
    "max_prefill_tokens",
    "chunked_prefill_size",
    "prefill_chunk_size",
)
#: parameters with which a policy acts in short runs
PARAMETERS: dict[tuple[str, str], dict[str, Any]] = {
    ("scheduling", "adaptive-batch"): {"tpot_s": 0.0005},
    ("scheduling", "sarathi"): {"chunk_tokens": 8},
    ("scheduling", "static-batch"): {"max_queue_delay_s": 0.001},
    ("order", "edf"): {"ttft_s": 0.002, "per_prompt_token_s": 0.0001},
    ("order", "round-robin"): {"quantum_tokens": 3},
    ("order", "mlfq"): {"quantum_steps": 2, "promote_after_s": 0.002},
    ("eviction", "session-ttl"): {"min_s": 0.0, "max_s": 0.01},
    ("disaggregation", "conditional"): {"max_local_tokens": 12},
    ("disaggregation", "role-switching"): {
        "prefill_queue": 0.5,
        "decode_queue": 0.5,
        "pause_s": 0.0,
    },
}


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in PRESETS:
        yield f"preset {name}", {"preset": name}
    for family, registry in FAMILIES.items():
        for name, cls in registry:
            choice = {"name": name, **PARAMETERS.get((family, name), {})}
            yield f"{family} {name}", {"policies": {family: choice}, "class": cls}


CASES = dict(_cases())


def knobs(rng: Random, preset: str, policies: dict[str, Any]) -> dict[str, Any]:
    """Some of the engine's keys."""
    kind = type(TypeAdapter(Engine).validate_python({"preset": preset}))
    drawn: dict[str, Any] = {"preset": preset}
    for name, field in kind.model_fields.items():
        taken = name == "preset" or ("scheduling" in policies and name in kind.scheduler_keys)
        if taken or rng.random() < 0.6:
            continue
        if field.annotation is bool:
            drawn[name] = rng.random() < 0.5
        elif get_origin(field.annotation) is Literal:
            drawn[name] = rng.choice(get_args(field.annotation))
        elif name in BATCHES:
            drawn[name] = 1 if preset == "candle" else rng.choice((1, 3, 5, 16))
        elif name == "schedule_conservativeness":
            drawn[name] = rng.choice((0.02, 0.3))
        elif name in BUDGETS:
            drawn[name] = rng.choice((16, 64, 200))
    if drawn.get("capacity_scheduler_policy") == "STATIC_BATCH":
        drawn.pop("enable_chunked_prefill", None)
    if drawn.get("prefix_index") == "hash-chain" and drawn.get("schedule_policy") == "dfs-weight":
        del drawn["prefix_index"]
    return drawn


def workload(rng: Random, kind: str, *, images: bool) -> dict[str, Any]:
    """Few requests, much alike, often all at once."""

    def between(low: int, high: int) -> dict[str, Any]:
        return {"kind": "uniform", "low": low, "high": rng.choice((low, high, high, high))}

    common: dict[str, Any] = {"kind": kind, "output_tokens": between(1, 30)}
    if rng.random() < 0.3:
        common["max_tokens"] = rng.choice((5, 30))
    sessions = {"sessions": rng.randint(1, 8), "concurrency": rng.choice((1, 4, 8))}
    if kind == "workflow":
        tokens = {"fixed_tokens": between(1, 30), "task_tokens": between(1, 12)}
        shape = {"agents": rng.choice((1, 3)), "rounds": 2, "pause_s": rng.choice((0, 0.001))}
        return {**common, **sessions, **tokens, **shape}
    common["prompt_tokens"] = between(1, 30)
    common["system"] = {"count": rng.choice((1, 3)), "tokens": between(1, 33)}
    if kind == "chat":
        shape = {"turns": rng.choice((1, 3)), "think_s": rng.choice((0.00001, 0.001))}
        return {**common, **sessions, **shape}
    common["requests"] = rng.randint(1, 16)
    common["arrivals"] = rng.choice((100, 1000, {"kind": "all-at-once"}))
    if rng.random() < 0.5:
        common["priority"] = between(0, 3)
    if images or rng.random() < 0.3:
        common["images"] = {"count": rng.choice((2, 9)), "tokens": 6}
    return common


def scenario(rng: Random, case: dict[str, Any]) -> dict[str, Any]:
    """A whole one, with the case's policy or preset in it."""
    chosen, cls = dict(case.get("policies", {})), case.get("class")
    oracle = "eviction" in chosen and cls.promise.oracle
    placement = chosen.get("disaggregation", {}).get("name", "colocated")
    encodes = "disaggregation" in chosen and getattr(cls, "encodes", False)
    split = placement != "colocated" and (not encodes or rng.random() < 0.5)
    preset = case.get("preset") or rng.choice(("vllm-v1", "sglang"))
    if {"victim", "order"} & chosen.keys():
        preset = "vllm-v1"
    if chosen.get("scheduling", {}).get("name") == "sglang":
        preset = "sglang"  # others' context limit is all that KV holds, which it never admits
    engine = knobs(rng, preset, chosen)
    if "eviction" in chosen and cls.promise.queues and not getattr(cls, "on_leaves", False):
        engine["prefix_index"] = "hash-chain"
        engine.pop("schedule_policy", None)
    size = rng.choice((1, 4, 16))
    pool: dict[str, Any] = {
        "gpu": "h100-sxm",
        "model": "qwen2-vl-7b",
        "block_size": size,
        "kv_blocks": -(-95 // size) + 3 + rng.choice((0, 0, 1, 4, 40)),
        "engine": engine,
    }
    made: dict[str, Any] = {"name": "s", "seed": rng.randint(0, 3)}
    replicas = 1 if oracle else rng.choice((1, 2))
    if split:
        pools = [{"name": role, "role": role, **pool} for role in ("prefill", "decode")]
        rng.choice(pools)["replicas"] = replicas
        made["cluster"] = {"pools": pools}
        link = {"latency_us": 40, "gbytes_per_s": 0.01, "failure": rng.choice((0, 0.4))}
        made["links"] = {"kv": link}
    else:
        made["cluster"] = {**pool, "replicas": 3 if "routing" in chosen else replicas}
    if encodes:
        pools = made["cluster"].get("pools") or [{"name": "serve", **made["cluster"]}]
        encoder = {"name": "see", "role": "encode", "gpu": "h100-sxm", "model": pool["model"]}
        made["cluster"] = {"pools": [*pools, {**encoder, "replicas": rng.choice((1, 2))}]}
        link = {"latency_us": 40, "gbytes_per_s": 0.1, "failure": rng.choice((0, 0.4))}
        made.setdefault("links", {})["embeddings"] = link
    if "order" in chosen and rng.random() < 0.5:
        chosen["scheduling"] = "preemptive"
        for key in type(TypeAdapter(Engine).validate_python(preset)).scheduler_keys:
            engine.pop(key, None)
    made["policies"] = chosen
    kinds = ("open-loop",) if oracle or encodes else ("open-loop", "chat", "workflow")
    made["workload"] = workload(rng, rng.choice(kinds), images=encodes)
    if rng.random() < 0.5:
        made["router"] = {"signal_age_s": 0.0005}
    if rng.random() < 0.4:
        made["workload"]["grammars"] = {
            "share": rng.choice((0.5, 1)),
            "count": 3,
            "compile_s": rng.choice((0, 0.0003, 0.01)),
        }
    return made


def columns(outcome: Outcome) -> dict[str, list[Any]]:
    """The records of the requests."""
    return {name: column.tolist() for name, column in outcome.requests.items()}


def _lost_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = BlockPool.acquire

    def acquired(pool: BlockPool, seq: Any, hit: Any, blocks: int) -> None:
        acquire(pool, seq, hit, blocks)
        pool._ref[seq.table[0]] += 1

    monkeypatch.setattr(BlockPool, "acquire", acquired)


def _lost_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RadixIndex, "unlock", lambda index, node, request=None: 0)


def _token_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Replica.begin

    def begun(replica: Replica, plan: Any) -> None:
        begin(replica, plan)
        for chunk in plan.chunks:
            if not chunk.samples:
                chunk.seq.computed += 1

    monkeypatch.setattr(Replica, "begin", begun)


def _time_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Replica.finish
    monkeypatch.setattr(
        Replica, "finish", lambda r, plan, now, steps=1: finish(r, plan, now - 10**9, steps)
    )


def _answer_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Sequence.__init__

    def made(seq: Sequence, request: Any, output: int, chain: Any, longest: int) -> None:
        init(seq, request, max(output - 1, 1), chain, longest)

    monkeypatch.setattr(Sequence, "__init__", made)


@pytest.mark.parametrize(
    ("fault", "engine"),
    [
        (_lost_reference, "{preset: vllm-v1, prefix_index: hash-chain}"),
        (_lost_lock, "{preset: sglang}"),
        (_token_left_out, "{preset: vllm-v1, max_num_batched_tokens: 16}"),
        (_time_goes_back, "{preset: vllm-v1}"),
        (_answer_cut, "{preset: vllm-v1}"),
    ],
    ids=["reference", "lock", "token", "time", "answer"],
)
def test_a_planted_fault_is_seen(
    fault: Any, engine: str, tmp_path: Path, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\ncluster: {gpu: h100-sxm, model: tiny, block_size: 4, kv_blocks: 60, "
        f"engine: {engine}}}\npolicies: {{eviction: fifo}}\n"
        "workload: {kind: open-loop, requests: 8, arrivals: 3000, prompt_tokens: 30, "
        "output_tokens: 5, system: {tokens: 12}}\n"
    )
    source = load.read(str(tmp_path / "s.yaml"), ())
    (cell,) = grid.cells(source)[1]

    def play() -> None:
        made, seen = build.assemble(cell, source.folders), watch()
        with seen.watching():
            outcome = simulate(made.config, made.workload, trace=StepLog(), check=True)
        seen.verify(outcome)

    play()
    fault(monkeypatch)
    with pytest.raises((AssertionError, InfersimError)):
        play()


@pytest.mark.parametrize("name", CASES)
@EXAMPLES
@given(rng=st.randoms(use_true_random=False))
def test_nothing_is_lost(name: str, rng: Random, tmp_path: Path, watch: Any) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps(scenario(rng, CASES[name])))
    source = load.read(str(path), ())
    (cell,) = grid.cells(source)[1]
    made, again = (build.assemble(cell, source.folders) for _ in range(2))
    seen = watch()
    with seen.watching():
        steps = simulate(made.config, made.workload, trace=StepLog(), check=True)
    seen.verify(steps)
    leaps = simulate(again.config, again.workload)
    assert columns(leaps) == columns(steps)
    assert leaps.totals == steps.totals


def test_kv_that_fails_to_come_is_computed_where_blocks_are_all_it_has(
    tmp_path: Path, watch: Any
) -> None:
    """SGLang's admission counts the longest answer; blocks a request holds are not free to it."""
    pool = "gpu: h100-sxm, model: tiny, block_size: 4, kv_blocks: 67, engine: sglang"
    roles = "".join(
        f"\n    - {{name: {one}, role: {one}, {pool}}}" for one in ("prefill", "decode")
    )
    (tmp_path / "s.yaml").write_text(
        f"name: s\ncluster:\n  pools:{roles}\n"
        "links: {kv: {latency_us: 40, gbytes_per_s: 0.01, failure: 1, retries: 0}}\n"
        "workload: {kind: open-loop, requests: 4, arrivals: 20, prompt_tokens: 18, "
        "output_tokens: 5, system: {tokens: 12}}\n"
    )
    source = load.read(str(tmp_path / "s.yaml"), ())
    (cell,) = grid.cells(source)[1]
    made, seen = build.assemble(cell, source.folders), watch()
    with seen.watching():
        outcome = simulate(made.config, made.workload, trace=StepLog(), check=True)
    seen.verify(outcome)
    assert outcome.totals["failed_transfers"] == 4
    # those after the first find the system prompt there, and keep it while they wait
    assert outcome.requests["recomputed_tokens"].tolist() == [30, 18, 18, 18]
