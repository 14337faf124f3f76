"""What a scenario makes of its cluster: limits, capacity, policies, links."""

from pathlib import Path

import pytest

from infersim.policies.scheduling.order import LastAdmitted, LowestPriority, Priority
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.scenarios import build, grid, load
from infersim.scenarios.pools import UNLIMITED_BLOCKS, Pool
from infersim.scenarios.schema.scenario import Scenario
from infersim.sim.state.config import ClusterConfig, LinkConfig

HEAD = "name: s\nworkload: {kind: open-loop, requests: 3, arrivals: 1}\n"
ONE = HEAD + "cluster: {gpu: h100-sxm, model: llama-3.1-8b}\n"


def read(tmp_path: Path, text: str, *settings: str) -> tuple[Scenario, tuple[Path, ...]]:
    (tmp_path / "s.yaml").write_text(text)
    source = load.read(str(tmp_path / "s.yaml"), settings)
    return grid.cells(source)[0], source.folders


def pool(tmp_path: Path, *settings: str) -> Pool:
    scenario, folders = read(tmp_path, ONE, *settings)
    (found,) = build.pools(scenario, folders)
    return found


def config(tmp_path: Path, text: str, *settings: str) -> ClusterConfig:
    scenario, folders = read(tmp_path, text, *settings)
    return build.cluster(scenario, build.pools(scenario, folders), folders)


def test_the_capacity_is_computed_and_one_block_is_reserved(tmp_path: Path) -> None:
    found = pool(tmp_path)
    assert found.capacity.computed is not None
    assert found.capacity.blocks == found.capacity.computed.kv_blocks - 1
    assert found.capacity.max_model_len == 131_072
    row = found.row()
    assert row["kv_tokens"] == found.capacity.blocks * 16
    assert row["weights_bytes"] == pytest.approx(16.06e9, rel=0.01)
    assert f"{found.capacity.blocks:,} KV blocks of 16" in found.line()
    assert "weights 16.06" in found.line()


def test_the_capacity_can_be_given(tmp_path: Path) -> None:
    found = pool(tmp_path, "cluster.kv_blocks=2588")
    assert found.capacity.blocks == 2587
    assert found.capacity.max_model_len == 2587 * 16
    assert "context limit is 41,392 tokens" in found.capacity.note
    assert found.line().endswith("(given)")


def test_a_given_capacity_needs_no_room_on_the_gpu(tmp_path: Path) -> None:
    found = pool(tmp_path, "cluster.kv_blocks=100", "cluster.model=llama-3.1-405b")
    assert found.capacity.blocks == 99


def test_unlimited_kv(tmp_path: Path) -> None:
    found = pool(tmp_path, "cluster.kv_blocks=unlimited", "cluster.engine.max_model_len=1000000")
    assert found.capacity.blocks == UNLIMITED_BLOCKS
    assert found.capacity.max_model_len == 1_000_000
    assert "unlimited KV" in found.line()


def test_engine_options_reach_limits_and_scheduler(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        ONE,
        "cluster.engine={max_num_batched_tokens: 100, max_num_seqs: 7, max_model_len: 900, "
        "enable_prefix_caching: false, async_scheduling: false, max_loras: 2, watermark: 0.25, "
        "enable_chunked_prefill: false, reserve_full_isl: false, max_num_active_seqs: 3, "
        "long_prefill_token_threshold: 64, adaptive_long_prefill: true, encoder_budget: 5, "
        "encoder_cache_size: 6, prefill_schedule_interval: 4}",
        "cluster.block_size=32",
        "cluster.kv_blocks=50",
    ).pools[0]
    limits = made.limits
    assert (limits.kv_blocks, limits.block_size, limits.max_model_len) == (49, 32, 900)
    assert (limits.max_num_batched_tokens, limits.max_num_seqs, limits.max_loras) == (100, 7, 2)
    assert (limits.encoder_budget, limits.encoder_cache_size) == (5, 6)
    assert not limits.prefix_caching
    assert not limits.async_scheduling
    assert made.make_scheduler() == VllmV1(
        chunked_prefill=False,
        long_prefill_token_threshold=64,
        adaptive_long_prefill=True,
        max_num_active_seqs=3,
        watermark=0.25,
        reserve_full_isl=False,
        prefill_schedule_interval=4,
        victim=LastAdmitted(),
    )


def test_priority_preempts_by_priority(tmp_path: Path) -> None:
    made = config(tmp_path, ONE, "policies.order=priority").pools[0]
    assert made.make_order is not None
    assert made.make_order() == Priority()
    assert made.make_scheduler().victim == LowestPriority()
    chosen = config(tmp_path, ONE, "policies={order: priority, victim: last-admitted}").pools[0]
    assert chosen.make_scheduler().victim == LastAdmitted()


def test_first_come_first_served_needs_no_order(tmp_path: Path) -> None:
    assert config(tmp_path, ONE, "policies.order=fcfs").pools[0].make_order is None


def test_an_eviction_without_a_cache_is_said_to_evict_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(ONE)

    def notes(*settings: str) -> str:
        source = load.read(str(tmp_path / "s.yaml"), settings)
        ((_, (cell,)),) = (grid.cells(source),)
        told = build.simulate_cell(cell, source.folders, leap=True, progress=lambda *_: None)
        return "; ".join(told.records.notes)

    off = "cluster.engine.enable_prefix_caching=false"
    assert "lfu evicts nothing in pool" in notes(off, "policies.eviction=lfu")
    assert "evicts nothing" not in notes(off)
    assert "evicts nothing" not in notes("policies.eviction=lfu")


def test_a_scheduler_with_parameters(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        ONE,
        "policies.scheduling={name: vllm-v1, watermark: 0.5}",
        "policies.victim=lowest-priority",
    ).pools[0]
    assert made.make_scheduler() == VllmV1(watermark=0.5, victim=LowestPriority())


def test_every_replica_gets_policies_of_its_own(tmp_path: Path) -> None:
    made = config(tmp_path, ONE, "policies.eviction={name: session-ttl, factor: 3}").pools[0]
    first, second = made.make_eviction(), made.make_eviction()
    assert first is not second
    assert first.factor == 3.0  # type: ignore[attr-defined]


def test_links_and_split(tmp_path: Path) -> None:
    text = HEAD + (
        "cluster:\n  pools:\n"
        "    - {name: p, role: prefill, gpu: h100, model: llama-3.1-8b, replicas: 2, tp: 2}\n"
        "    - {name: d, role: decode, gpu: h100, model: llama-3.1-8b}\n"
        "links: {kv: {latency_us: 2.5, gbytes_per_s: 50}}\n"
        "router: {signal_age_s: 0.25}\n"
    )
    made = config(tmp_path, text)
    assert made.kv_link == LinkConfig(2_500_000, 50 * 10**9)
    assert made.signal_age_ps == 250_000_000_000
    assert type(made.disaggregation).__name__ == "StaticSplit"
    assert [(p.name, p.role, p.replicas) for p in made.pools] == [
        ("p", "prefill", 2),
        ("d", "decode", 1),
    ]
    # what a token's KV weighs does not depend on how many GPUs share it
    assert {p.kv_bytes_per_token for p in made.pools} == {131_072}
    assert {p.layers for p in made.pools} == {32}
    named = config(tmp_path, text, "links.kv=nvlink4")
    assert named.kv_link == LinkConfig(1_500_000, 450 * 10**9)
    failing = config(tmp_path, text, "links.kv={name: nvlink4, failure: 0.1, retries: 3}")
    assert failing.kv_link == LinkConfig(1_500_000, 450 * 10**9, 0.1, 3)


def test_a_policy_in_a_file_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from infersim.policies.eviction.base import Eviction\n\n"
        "@dataclass\nclass Newest(Eviction):\n"
        '    """Newest first."""\n'
        "    weight: int = 1\n\n"
        "    def key(self, block, request, now):\n"
        "        return (-self.weight * block.inserted,)\n"
    )
    text = ONE + "policies: {eviction: {policy: 'mine.py:Newest', weight: 3}}\n"
    scenario, folders = read(tmp_path, text)
    assert scenario.resolved()["policies"]["eviction"] == {"name": "mine.py:Newest", "weight": 3}
    assert build.inputs([scenario], folders) == {"mine.py": tmp_path / "mine.py"}
    (cell,) = grid.cells(load.read(str(tmp_path / "s.yaml")))[1]
    records = build.simulate_cell(cell, folders, leap=True, progress=lambda *told: None).records
    assert (records.requests["status"] == "finished").all()


def test_catalogue_entries_in_files_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(
        "hidden: 64\nlayers: 2\nheads: 4\nkv_heads: 2\nhead_dim: 16\nffn: 128\nvocab: 1000\n"
        "max_pos: 4096\n"
    )
    scenario, folders = read(tmp_path, ONE, "cluster.model=tiny.yaml")
    (found,) = build.pools(scenario, folders)
    assert found.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert build.inputs([scenario], folders) == {"tiny.yaml": tmp_path / "tiny.yaml"}
