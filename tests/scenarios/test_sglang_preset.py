"""``engine: sglang`` in a scenario: names, pages, capacity, policies, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from infersim.policies.errors import InputError
from infersim.policies.scheduling.sglang.scheduler import Sglang
from infersim.scenarios import build, grid, load
from infersim.scenarios.build import simulate_cell
from infersim.scenarios.explain import ScenarioError
from infersim.scenarios.pools import Pool
from infersim.sim.state.config import ClusterConfig

HEAD = "name: s\nworkload: {kind: open-loop, requests: 30, arrivals: 4}\n"
ONE = HEAD + "cluster: {gpu: h100-sxm, model: llama-3.1-8b, engine: sglang}\n"


def read(tmp_path: Path, *settings: str) -> tuple[grid.Cell, tuple[Path, ...]]:
    (tmp_path / "s.yaml").write_text(ONE)
    source = load.read(str(tmp_path / "s.yaml"), settings)
    (cell,) = grid.cells(source)[1]
    return cell, source.folders


def pool(tmp_path: Path, *settings: str) -> Pool:
    cell, folders = read(tmp_path, *settings)
    (found,) = build.pools(cell.scenario, folders)
    return found


def config(tmp_path: Path, *settings: str) -> ClusterConfig:
    cell, folders = read(tmp_path, *settings)
    return build.cluster(cell.scenario, build.pools(cell.scenario, folders), folders)


def test_sglangs_names_reach_limits_and_scheduler(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        "cluster.engine={preset: sglang, schedule_policy: lpm, chunked_prefill_size: 512, "
        "max_prefill_tokens: 900, schedule_conservativeness: 0.5, page_size: 16, "
        "max_running_requests: 7, context_length: 800, enable_mixed_chunk: true, "
        "enable_priority_scheduling: true, schedule_low_priority_values_first: false, "
        "prefill_max_requests: 3, ignore_eos: true, disable_radix_cache: true, "
        "disable_overlap_schedule: true, max_loras_per_batch: 2}",
        "cluster.kv_blocks=100",
    ).pools[0]
    limits = made.limits
    assert (limits.kv_blocks, limits.block_size, limits.max_model_len) == (100, 16, 800)
    assert (limits.max_num_seqs, limits.max_loras, limits.prefix_index) == (7, 2, "radix")
    assert not limits.prefix_caching
    assert not limits.async_scheduling
    assert limits.max_num_batched_tokens > 1 << 30
    assert made.make_scheduler() == Sglang(
        schedule_policy="lpm",
        chunked_prefill_size=512,
        max_prefill_tokens=900,
        schedule_conservativeness=0.5,
        enable_mixed_chunk=True,
        enable_priority_scheduling=True,
        schedule_low_priority_values_first=False,
        prefill_max_requests=3,
        ignore_eos=True,
    )


def test_a_page_is_a_token_or_the_pools_block(tmp_path: Path) -> None:
    assert pool(tmp_path).spec.block_size == 1
    assert pool(tmp_path, "cluster.block_size=32").spec.block_size == 32
    engine = "cluster.engine={preset: sglang, page_size: 64}"
    assert pool(tmp_path, engine).spec.block_size == 64
    assert pool(tmp_path, engine, "cluster.block_size=64").spec.block_size == 64
    with pytest.raises(ScenarioError, match="page_size is 64, and block_size says 32"):
        pool(tmp_path, engine, "cluster.block_size=32")


def test_the_context_leaves_what_admission_adds(tmp_path: Path) -> None:
    found = pool(tmp_path, "cluster.kv_blocks=5000")
    assert (found.capacity.blocks, found.capacity.max_model_len) == (5000, 4997)
    with pytest.raises(InputError, match="does not fit in 4,997 tokens"):
        pool(
            tmp_path,
            "cluster.engine={preset: sglang, context_length: 4998}",
            "cluster.kv_blocks=5000",
        )


def test_a_long_batch_costs_no_activations(tmp_path: Path) -> None:
    small = pool(tmp_path, "cluster.engine={preset: sglang, max_running_requests: 256}")
    assert pool(tmp_path).capacity.blocks == small.capacity.blocks


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("cluster.engine={preset: sglan}", 'found "sglan"'),
        ("cluster.engine={preset: sglang, max_num_seqs: 4}", 'unknown key "max_num_seqs"'),
        ("cluster.engine={page_size: 4}", 'unknown key "page_size"'),
        ("cluster.engine={preset: sglang, schedule_policy: lmp}", 'found "lmp"'),
    ],
)
def test_wrong_keys_and_values_are_named(tmp_path: Path, setting: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        pool(tmp_path, setting)


def test_policies_that_it_has_no_use_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chooses who gives up its KV by itself"):
        config(tmp_path, "policies.victim=last-admitted").pools[0].make_scheduler()
    with pytest.raises(InputError, match="two orders of the waiting line"):
        config(
            tmp_path,
            "cluster.engine={preset: sglang, schedule_policy: lpm}",
            "policies.order=priority",
        )
    assert config(tmp_path, "policies.order=priority").pools[0].make_scheduler() == Sglang()


@pytest.mark.parametrize("policy", ["fcfs", "lpm", "dfs-weight", "random"])
def test_a_scenario_runs_with_and_without_leaps(tmp_path: Path, policy: str) -> None:
    cell, folders = read(tmp_path, f"cluster.engine={{preset: sglang, schedule_policy: {policy}}}")
    runs = []
    for leap in (True, False):
        made = simulate_cell(cell, folders, leap=leap, progress=lambda *told: None)
        runs.append(made.records.requests["finish_ps"].tolist())
    assert runs[0] == runs[1]
    assert len(runs[0]) == 30


def test_its_scheduler_under_another_engine_needs_room_beside_the_longest_request(
    tmp_path: Path,
) -> None:
    """SGLang admits nothing as long as all KV, which is what others' contexts are cut to."""
    other = ("policies.scheduling=sglang", "cluster.kv_blocks=101")
    with pytest.raises(InputError, match=r"of up to 1,567 tokens .* limit is 1,600"):
        config(tmp_path, *other, "cluster.engine=vllm-v1")
    made = config(tmp_path, *other, "cluster.engine={preset: vllm-v1, max_model_len: 1567}")
    assert made.pools[0].limits.max_model_len == 1567
