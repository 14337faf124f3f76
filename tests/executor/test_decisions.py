"""On a virtual clock the executor decides what the simulator decides, step by step."""

from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError

HEAD = """\
name: s
seed: 5
cluster:
  gpu: h100-sxm
  model: mini.yaml
  block_size: 4
  kv_blocks: 120
  engine: {max_num_batched_tokens: 64, max_num_seqs: 12, max_model_len: 400}
"""
OPEN = (
    HEAD
    + """\
workload:
  kind: open-loop
  requests: 60
  arrivals: 400
  system: {tokens: 30}
  prompt_tokens: {kind: uniform, low: 5, high: 90}
  output_tokens: {kind: uniform, low: 1, high: 40}
"""
)
CHAT = (
    HEAD
    + """\
workload:
  kind: chat
  sessions: 14
  concurrency: 6
  think_s: {kind: exponential, mean: 0.01}
  system: {tokens: 24}
  prompt_tokens: {kind: uniform, low: 3, high: 30}
  output_tokens: {kind: uniform, low: 2, high: 40}
"""
)
AGENTS = (
    HEAD
    + """\
workload:
  kind: agent
  sessions: 6
  concurrency: 4
  cpu_slots: 2
  system_tokens: 40
  tools_tokens: 32
  developer_tokens: 10
  tool_schemas: 2
  environment: {tokens: 8, update_tokens: 2}
  think_s: 0.01
  task_tokens: 12
  tasks: 2
  steps: {kind: geometric, mean: 3}
  reasoning_tokens: 6
  answer_tokens: 8
  final_tokens: 20
  parallel_tools: 2
  sandbox: {start_s: 0.01}
  tools:
    - latency_s: 0.004
      result_tokens: {kind: uniform, low: 5, high: 30}
      error_tokens: 5
      failure: 0.3
      retry_wait_s: 0.002
  subagents:
    {share: 0.4, at_once: 2, system_tokens: 20, tools_tokens: 20, task_tokens: 8, final_tokens: 6}
  compaction: {at: 0.8, instruction_tokens: 4, summary_tokens: 20, keep_last: 1}
"""
)
WORKFLOW = (
    HEAD
    + """\
workload:
  kind: workflow
  sessions: 6
  concurrency: 3
  agents: 4
  rounds: 3
  shared_tokens: 10
  fixed_tokens: 30
  task_tokens: {kind: uniform, low: 2, high: 20}
  output_tokens: {kind: uniform, low: 2, high: 20}
"""
)
SPLIT = (
    OPEN.split("cluster:")[0]
    + """\
cluster:
  pools:
    - {name: p, role: prefill, replicas: 2, gpu: h100-sxm, model: mini.yaml, block_size: 4,
       kv_blocks: 120, engine: {max_num_batched_tokens: 64, max_model_len: 400}}
    - {name: d, role: decode, gpu: h100-sxm, model: mini.yaml, block_size: 4, kv_blocks: 101,
       engine: {max_num_batched_tokens: 64, max_model_len: 400}}
links: {kv: {latency_us: 50, gbytes_per_s: 0.05}}
"""
    + "workload:"
    + CHAT.split("workload:")[1]
)
GRAMMARS = "workload.grammars={share: 0.6, count: 5, zipf: 1, compile_s: 0.004}"
SYNC = "cluster.engine.async_scheduling=false"
TIGHT = "cluster.kv_blocks=101"  # one longest request

#: text, settings, columns of the step log that must not be all zero
CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "shared prefix, async": (OPEN, [], ["hit_tokens", "prefill_context_tokens"]),
    "shared prefix, sync": (OPEN, [SYNC], ["hit_tokens"]),
    "few blocks preempt": (OPEN, [TIGHT, "workload.arrivals=2000"], ["preempted", "hit_tokens"]),
    "few blocks preempt, sync": (OPEN, [TIGHT, SYNC, "workload.arrivals=2000"], ["preempted"]),
    "no prefix cache": (OPEN, ["cluster.engine.enable_prefix_caching=false"], ["prefill_chunks"]),
    "by priority": (
        OPEN,
        [
            TIGHT,
            "workload.arrivals=2000",
            "policies.order=priority",
            "workload.priority={kind: uniform, low: 0, high: 4}",
        ],
        ["preempted"],
    ),
    "whole prompts": (
        OPEN,
        [
            "cluster.engine.max_num_batched_tokens=512",
            "cluster.engine.enable_chunked_prefill=false",
        ],
        ["prefill_tokens"],
    ),
    "structured output": (OPEN, [GRAMMARS, TIGHT, "workload.arrivals=2000"], ["preempted"]),
    "structured output, sync": (OPEN, [GRAMMARS, SYNC], ["hit_tokens"]),
    "structured output of agents, its queue apart": (
        AGENTS,
        [
            GRAMMARS,
            "cluster.engine={preset: sglang, max_running_requests: 12, context_length: 400}",
            "cluster.kv_blocks=130",
        ],
        ["hit_tokens"],
    ),
    "structured output, prefill there": (SPLIT, [GRAMMARS], ["remote_tokens", "hit_tokens"]),
    "chat, lfu": (CHAT, ["policies.eviction=lfu", SYNC], ["hit_tokens"]),
    "chat, random eviction": (CHAT, ["policies.eviction=random", TIGHT], ["hit_tokens"]),
    "agents, async": (AGENTS, [], ["hit_tokens"]),
    "agents, sync, session-ttl": (AGENTS, [SYNC, "policies.eviction=session-ttl"], ["hit_tokens"]),
    "agents, gdsf, tight": (AGENTS, [TIGHT, "policies.eviction=gdsf"], ["hit_tokens", "preempted"]),
    "workflows, workflow-aware": (WORKFLOW, ["policies.eviction=workflow-aware"], ["hit_tokens"]),
    "workflows, workflow-aware, radix": (
        WORKFLOW,
        ["policies.eviction=workflow-aware", "cluster.engine.prefix_index=radix"],
        ["hit_tokens"],
    ),
    "prefill there, decode here": (SPLIT, [], ["remote_tokens", "hit_tokens"]),
    "the same, many and tight": (
        SPLIT,
        ["workload.concurrency=14", "cluster.pools.1.engine.async_scheduling=false"],
        ["remote_tokens", "preempted"],
    ),
    "prefill there, pushed": (
        SPLIT,
        ["policies.disaggregation={name: static-split, transfer: push, in_flight: 2}"],
        ["remote_tokens", "hit_tokens"],
    ),
    "prefill there, pulled two at a time, one in three fails": (
        SPLIT,
        [
            "links.kv.failure=0.3",
            "policies.disaggregation={name: static-split, in_flight: 2}",
            "workload.concurrency=14",
        ],
        ["remote_tokens", "preempted"],
    ),
    "short prompts stay": (
        SPLIT,
        ["policies.disaggregation={name: conditional, max_local_tokens: 20}"],
        ["remote_tokens", "hit_tokens", "prefill_tokens"],
    ),
    "roles change": (
        SPLIT,
        [
            "policies.disaggregation="
            "{name: role-switching, prefill_queue: 0.5, decode_queue: 0.5, pause_s: 0}",
            "cluster.pools.1.replicas=2",
            "workload.concurrency=14",
        ],
        ["remote_tokens", "hit_tokens"],
    ),
    "a tier in host memory": (CHAT, ["cluster.offload={blocks: 300}"], ["remote_tokens"]),
    "a small tier, slow link, sync": (
        AGENTS,
        [SYNC, TIGHT, "workload.sessions=8", "cluster.offload={blocks: 40, gbytes_per_s: 0.01}"],
        ["remote_tokens", "preempted"],
    ),
    "two tiers": (
        AGENTS,
        ["cluster.offload={blocks: 200}", "cluster.replicas=2", "policies.eviction=fifo"],
        ["remote_tokens"],
    ),
    "two replicas by prefix": (
        AGENTS,
        ["cluster.replicas=2", "policies.routing=prefix-aware"],
        ["hit_tokens"],
    ),
    "three replicas, old reports": (
        OPEN,
        [
            "cluster.replicas=3",
            "policies.routing=least-outstanding",
            "router={signal_age_s: 0.01}",
        ],
        ["hit_tokens"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_executor_decides_as_the_simulator(name: str, tmp_path: Path, tools: Any) -> None:
    text, settings, present = CASES[name]
    both = tools.Both(tmp_path, text, *settings)
    outcome, steps = both.simulated()
    played, executed = both.executed()
    assert tools.differing(outcome, played) == []
    for column, values in steps.items():
        assert executed[column].tolist() == values.tolist(), column
    for column in present:
        assert steps[column].any(), f"the case has no {column}"
    assert ("compiled_grammars" in outcome.totals) == (GRAMMARS in settings)
    assert outcome.totals["evicted_blocks"] or "cluster.engine.enable_prefix" in str(settings)


def test_kv_that_travels_during_a_prefill_needs_a_virtual_clock(tmp_path: Path, tools: Any) -> None:
    setting = "policies.disaggregation={name: static-split, transfer: push, overlap: layers}"
    with pytest.raises(InputError, match="on a real clock the executor moves KV when a prefill"):
        tools.Both(tmp_path, SPLIT, setting).executed(wall=True)


def test_a_difference_would_be_seen(tmp_path: Path, tools: Any) -> None:
    _, lru = tools.Both(tmp_path, CHAT, TIGHT).simulated()
    _, lfu = tools.Both(tmp_path, CHAT, TIGHT, "policies.eviction=lfu").executed()
    assert lru["digest"].tolist() != lfu["digest"].tolist()
