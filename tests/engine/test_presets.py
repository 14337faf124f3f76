"""Every engine preset builds from YAML, runs to the end, and is what its row says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infersim.policies.errors import InputError
from infersim.policies.registry import FAMILIES
from infersim.scenarios import build, grid, load
from infersim.scenarios.build import simulate_cell
from infersim.scenarios.explain import ScenarioError
from infersim.scenarios.schema.presets import PRESETS

TEXT = """name: s
seed: 2
cluster: {gpu: h100-sxm, model: llama-3.1-8b, kv_blocks: 700, block_size: 16, engine: %s}
workload:
  kind: open-loop
  requests: 60
  arrivals: 12
  max_tokens: 120
  prompt_tokens: {kind: lognormal, median: 300, sigma: 0.8, max: 3000}
  output_tokens: {kind: lognormal, median: 40, sigma: 0.8, max: 120}
"""


def read(tmp_path: Path, engine: str, *settings: str) -> tuple[grid.Cell, tuple[Path, ...]]:
    (tmp_path / "s.yaml").write_text(TEXT % engine)
    source = load.read(str(tmp_path / "s.yaml"), settings)
    (cell,) = grid.cells(source)[1]
    return cell, source.folders


def run(tmp_path: Path, engine: str, *settings: str) -> Any:
    """Records of the scenario; leaps change no byte of them."""
    cell, folders = read(tmp_path, engine, *settings)
    one, other = (
        simulate_cell(cell, folders, leap=leap, progress=lambda *told: None).records
        for leap in (True, False)
    )
    for name, column in one.requests.items():
        assert column.tolist() == other.requests[name].tolist(), name
    return one


def pool_config(tmp_path: Path, engine: str, *settings: str) -> Any:
    cell, folders = read(tmp_path, engine, *settings)
    return build.cluster(cell.scenario, build.pools(cell.scenario, folders), folders).pools[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_it_serves_every_request(tmp_path: Path, preset: str) -> None:
    record = run(tmp_path, preset)
    status = record.requests["status"]
    assert np.count_nonzero(status == "finished") == 60
    scheduler = pool_config(tmp_path, preset).make_scheduler()
    named = FAMILIES["scheduling"].get(PRESETS[preset].policies["scheduling"])
    assert type(scheduler) is named
    fixed = PRESETS[preset].parameters
    assert {name: getattr(scheduler, name) for name in fixed} == fixed
    assert PRESETS[preset].version
    assert PRESETS[preset].source


@pytest.mark.parametrize("preset", PRESETS)
def test_what_it_resolves_to_loads_again(tmp_path: Path, preset: str) -> None:
    cell, _ = read(tmp_path, preset)
    (tmp_path / "again.yaml").write_text(json.dumps(cell.scenario.resolved()))
    (again,) = grid.cells(load.read(str(tmp_path / "again.yaml"), ()))[1]
    assert again.scenario.resolved() == cell.scenario.resolved()


@pytest.mark.parametrize("policy", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
def test_capacity_policies_of_tensorrt_llm(tmp_path: Path, policy: str) -> None:
    engine = f"{{preset: tensorrt-llm, capacity_scheduler_policy: {policy}}}"
    record = run(tmp_path, engine, "cluster.kv_blocks=220", "workload.arrivals=400")
    assert np.count_nonzero(record.requests["status"] == "finished") == 60
    assert (record.totals["preemptions"] > 0) == (policy == "MAX_UTILIZATION")


def test_blocks_are_those_of_the_preset(tmp_path: Path) -> None:
    text = TEXT.replace(", block_size: 16", "")
    for preset, size in (("tensorrt-llm", 32), ("lmdeploy-turbomind", 64), ("orca", 16)):
        (tmp_path / "s.yaml").write_text(text % preset)
        source = load.read(str(tmp_path / "s.yaml"), ())
        (cell,) = grid.cells(source)[1]
        assert cell.scenario.pools[0].block_size == size


def test_only_vllm_v1_keeps_a_null_block(tmp_path: Path) -> None:
    assert pool_config(tmp_path, "vllm-v1").limits.kv_blocks == 699
    assert pool_config(tmp_path, "vllm-v0").limits.kv_blocks == 700


def test_engines_without_a_prefix_cache_have_none(tmp_path: Path) -> None:
    without = {"vllm-v0", "orca", "lmdeploy-turbomind", "fastertransformer", "ctranslate2"}
    without |= {"candle", "generate"}
    found = {name for name in PRESETS if not pool_config(tmp_path, name).limits.prefix_caching}
    assert found == without


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("{preset: tgi, max_num_seqs: 4}", 'unknown key "max_num_seqs"'),
        ("{preset: candle, max_batch_size: 4}", "one request at a time"),
        (
            "{preset: tensorrt-llm, capacity_scheduler_policy: STATIC_BATCH, "
            "enable_chunked_prefill: true}",
            "computes prompts whole",
        ),
        ("{preset: tgi, max_total_tokens: 90000}", "does not fit"),
        ("tensorrtllm", '"tensorrt-llm"'),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path: Path, engine: str, says: str) -> None:
    with pytest.raises((InputError, ScenarioError)) as error:
        pool_config(tmp_path, engine)
    assert says in str(error.value) + str(getattr(error.value, "help", ""))


def test_a_knob_that_another_scheduler_makes_meaningless_is_refused(tmp_path: Path) -> None:
    with pytest.raises((InputError, ScenarioError), match="would do nothing"):
        read(tmp_path, "{preset: tgi, waiting_served_ratio: 1.2}", "policies.scheduling=vllm-v1")


def test_a_prompt_over_the_step_fails_by_name(tmp_path: Path) -> None:
    record = run(tmp_path, "{preset: tgi, max_batch_prefill_tokens: 1000}")
    reasons = {str(reason) for reason in record.requests["reason"]} - {""}
    assert reasons == {"prompt over the 1000 tokens of a step, and prompts are not cut"}
