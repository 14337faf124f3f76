"""Swap space in a scenario: how much there is, how fast it is, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infersim.policies.scheduling.preemptive import Preemptive
from infersim.policies.scheduling.prefill_first import PrefillFirst
from infersim.scenarios import build, grid, load
from infersim.scenarios.explain import ScenarioError

TEXT = """name: s
cluster: {gpu: h100-sxm, model: llama-3.1-8b, kv_blocks: 300, engine: vllm-v0}
workload:
  kind: open-loop
  requests: 40
  arrivals: 200
  max_tokens: 300
  prompt_tokens: 100
  output_tokens: {kind: uniform, low: 150, high: 300}
"""
SWAP = "cluster.engine.preemption_mode=swap"
GIB = 2**30
BLOCK = 16 * 128 * 1024  #: bytes of a block of llama-3.1-8b


def config(tmp_path: Path, *settings: str) -> Any:
    (tmp_path / "s.yaml").write_text(TEXT)
    source = load.read(str(tmp_path / "s.yaml"), settings)
    (cell,) = grid.cells(source)[1]
    found = build.pools(cell.scenario, source.folders)
    return build.cluster(cell.scenario, found, source.folders).pools[0]


def records(tmp_path: Path, *settings: str) -> Any:
    (tmp_path / "s.yaml").write_text(TEXT)
    source = load.read(str(tmp_path / "s.yaml"), settings)
    (cell,) = grid.cells(source)[1]
    return build.simulate_cell(cell, source.folders, leap=True, progress=lambda *told: None).records


def test_recompute_is_the_default(tmp_path: Path) -> None:
    found = config(tmp_path)
    assert found.swap is None
    assert found.make_scheduler().preemption == "recompute"


def test_four_gib_at_the_rate_of_pcie(tmp_path: Path) -> None:
    found = config(tmp_path, SWAP)
    scheduler = found.make_scheduler()
    assert isinstance(scheduler, PrefillFirst)
    assert scheduler.preemption == "swap"
    assert found.swap.blocks == 4 * GIB // BLOCK
    assert (found.swap.bytes_per_s, found.swap.latency_ps) == (64 * 10**9, 10 * 10**6)


def test_every_gpu_carries_its_part(tmp_path: Path) -> None:
    """Four GPUs with two of the eight KV heads each; latent KV is whole on every one."""
    given = (SWAP, "cluster.tp=4", "cluster.swap.space_gib=1", "cluster.swap.gbytes_per_s=10")
    four = config(tmp_path, *given).swap
    assert (four.blocks, four.bytes_per_s) == (4 * GIB // BLOCK, 4 * 10**10)
    sixteen = config(tmp_path, *given, "cluster.tp=16").swap  # a KV head on two GPUs
    assert (sixteen.blocks, sixteen.bytes_per_s) == (8 * GIB // BLOCK, 8 * 10**10)
    latent = config(tmp_path, *given, "cluster.model=deepseek-v3").swap
    assert latent.bytes_per_s == 10**10


def test_other_schedulers_swap_by_a_line(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "cluster.engine=vllm-v1",
        "policies.scheduling={name: preemptive, preemption: swap}",
        "policies.order=mlfq",
    )
    assert isinstance(found.make_scheduler(), Preemptive)
    assert found.swap.blocks == 4 * GIB // BLOCK


@pytest.mark.parametrize(
    ("settings", "says", "where"),
    [
        (["cluster.swap.space_gib=2"], "nothing is swapped", "cluster.swap"),
        ([SWAP, "cluster.swap.space_gib=0.001"], "hold no KV block", "cluster.swap.space_gib"),
        ([SWAP, "cluster.swap.space_gib=0"], "greater than 0", "cluster.swap.space_gib"),
        ([SWAP, "cluster.swap.blocks=7"], 'unknown key "blocks"', "cluster.swap.blocks"),
        (["cluster.engine.preemption_mode=swop"], '"swap"', "preemption_mode"),
        (
            [SWAP, "cluster.engine.enable_prefix_caching=true", "cluster.offload.blocks=9"],
            "no swap space beside it",
            "cluster.swap",
        ),
        (
            ["cluster.engine=vllm-v1", "policies.scheduling={name: vllm-v1, preemption: swop}"],
            "recompute",
            "policies.scheduling",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, settings: list[str], says: str, where: str
) -> None:
    with pytest.raises(ScenarioError) as error:
        config(tmp_path, *settings)
    text = str(error.value)
    assert says in text
    assert where in text


def test_split_pools_do_not_swap(tmp_path: Path) -> None:
    pools = "\n".join(
        f"    - {{name: {role}, role: {role}, gpu: h100-sxm, model: llama-3.1-8b, "
        "engine: {preset: vllm-v0, preemption_mode: swap}}"
        for role in ("prefill", "decode")
    )
    head, _, rest = TEXT.partition("cluster:")
    text = f"{head}cluster:\n  pools:\n{pools}\nlinks: {{kv: nvlink4}}\n"
    (tmp_path / "s.yaml").write_text(text + rest[rest.index("workload:") :])
    source = load.read(str(tmp_path / "s.yaml"), ())
    with pytest.raises(ScenarioError, match="a prefill pool does not swap"):
        grid.cells(source)


def test_a_full_host_is_told(tmp_path: Path) -> None:
    space = "cluster.swap.space_gib={}"
    enough, little = (records(tmp_path, SWAP, space.format(gib)) for gib in (4, 0.03))
    assert enough.totals["swapped_out"] > 0
    assert not any("swap space was full" in note for note in enough.notes)
    assert enough.requests["recomputed_tokens"].sum() == 0
    refused = little.totals["swap_refused"]
    assert refused > 0
    assert any(f"the swap space was full {refused} times" in note for note in little.notes)


def test_copies_count_as_time_of_the_datasheet(tmp_path: Path) -> None:
    """The grades of a run still add up to its busy time."""
    totals = records(tmp_path, SWAP).totals
    assert totals["swap_ps"] > 0
    assert totals["datasheet_ps"] == totals["busy_ps"]
