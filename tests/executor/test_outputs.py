"""What the model says does not depend on how its steps were cut, nor on whose KV it read."""

from pathlib import Path
from typing import Any

import pytest

TEXT = """\
name: s
seed: 2
cluster:
  gpu: h100-sxm
  model: mini.yaml
  block_size: 4
  kv_blocks: 140
  engine: {max_num_batched_tokens: 64, max_num_seqs: 8, max_model_len: 160}
workload:
  kind: chat
  sessions: 6
  concurrency: 5
  think_s: 0.001
  turns: 2
  system: {tokens: 22}
  prompt_tokens: {kind: uniform, low: 3, high: 20}
  output_tokens: {kind: uniform, low: 2, high: 30}
"""
PLAIN = ["cluster.engine.enable_prefix_caching=false", "cluster.engine.async_scheduling=false"]


@pytest.mark.parametrize("model", ["mini.yaml", "moe.yaml"])
def test_outputs_do_not_depend_on_chunks_cache_or_preemption(
    model: str, tmp_path: Path, tools: Any
) -> None:
    base = f"cluster.model={model}"
    plain, steps = tools.Both(tmp_path, TEXT, base, *PLAIN).executed(compute=True)
    assert not steps["hit_tokens"].any()
    expected = tools.answers(plain)
    assert len({token for said in expected.values() for token in said}) > 20
    ways = [
        ([], "hit_tokens"),
        (["cluster.engine.max_num_batched_tokens=17"], "prefill_context_tokens"),
        (["cluster.kv_blocks=41"], "preempted"),
        (["cluster.kv_blocks=41", "cluster.offload={blocks: 60}"], "remote_tokens"),
    ]
    for settings, column in ways if model == "mini.yaml" else ways[2:3]:
        played, steps = tools.Both(tmp_path, TEXT, base, *settings).executed(compute=True)
        assert steps[column].any(), f"the case has no {column}"
        assert tools.answers(played) == expected, settings


def test_kv_that_moved_says_the_same(tmp_path: Path, tools: Any) -> None:
    expected = tools.answers(tools.Both(tmp_path, TEXT, *PLAIN).executed(compute=True)[0])
    pool = TEXT.split("cluster:\n")[1].split("workload:")[0].replace("\n  ", ", ").strip()
    pools = "".join(
        f"    - {{name: {role}, role: {role}, {pool}}}\n" for role in ("prefill", "decode")
    )
    text = (
        f"name: s\nseed: 2\nlinks: {{kv: nvlink4}}\ncluster:\n  pools:\n{pools}workload:"
        + TEXT.split("workload:")[1]
    )
    played, steps = tools.Both(tmp_path, text).executed(compute=True)
    assert steps["remote_tokens"].any()
    assert played.totals["link_bytes"] > 0
    assert tools.answers(played) == expected


def test_the_device_time_of_every_step_is_measured(tmp_path: Path, tools: Any) -> None:
    played, steps = tools.Both(tmp_path, TEXT).executed(compute=True)
    assert set(tools.MEASURED) < set(steps)
    assert set(steps["mode"]) == {"eager"}
    for name in ("schedule_ps", "prepare_ps", "launch_ps", "wait_ps", "account_ps", "device_ps"):
        assert (steps[name] > 0).all(), name
    assert steps["device_ps"].sum() == played.device_ps
