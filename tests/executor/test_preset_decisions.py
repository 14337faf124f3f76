"""Presets on a hash chain decide in the executor, by its virtual clock, as in the simulator."""

from pathlib import Path
from typing import Any

import pytest

from infersim.scenarios.schema.presets import PRESETS

TEXT = """\
name: s
seed: 5
cluster:
  gpu: h100-sxm
  model: mini.yaml
  block_size: 4
  kv_blocks: 110
  engine: %s
workload:
  kind: open-loop
  requests: 30
  arrivals: 2000
  max_tokens: 40
  system: {tokens: 30}
  prompt_tokens: {kind: uniform, low: 5, high: 90}
  output_tokens: {kind: uniform, low: 1, high: 40}
"""
MORE = [
    "{preset: tensorrt-llm, capacity_scheduler_policy: MAX_UTILIZATION}",
    "{preset: tensorrt-llm, capacity_scheduler_policy: STATIC_BATCH}",
    "{preset: orca, reserve: context, max_model_len: 200}",
    "{preset: generate, max_queue_delay_microseconds: 3000}",
]


@pytest.mark.parametrize("engine", [*(name for name in PRESETS if name != "sglang"), *MORE])
def test_presets_decide_in_the_simulator(engine: str, tmp_path: Path, tools: Any) -> None:
    both = tools.Both(tmp_path, TEXT % engine)
    outcome, steps = both.simulated()
    played, executed = both.executed()
    for mine, theirs in ((outcome.requests, played.requests), (steps, executed)):
        for column, values in mine.items():
            assert theirs[column].tolist() == values.tolist(), column
    assert (outcome.requests["status"] == "finished").all()
