"""compare: grids and named cells."""

from pathlib import Path

import pytest

from infersim.scenarios import grid, load
from infersim.scenarios.explain import ScenarioError

HEAD = """\
name: base
cluster: {gpu: h100, model: llama-3.1-8b}
workload: {kind: open-loop, requests: 3, arrivals: 1}
policies: {eviction: fifo}
"""


def cells(tmp_path: Path, compare: str) -> list[grid.Cell]:
    (tmp_path / "s.yaml").write_text(HEAD + compare)
    return grid.cells(load.read(str(tmp_path / "s.yaml")))[1]


def test_without_compare_there_is_one_cell(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, "")
    assert (cell.name, cell.params) == ("base", {})


def test_every_combination_the_first_key_slowest(tmp_path: Path) -> None:
    found = cells(
        tmp_path, "compare:\n  policies.eviction: [lru, lfu]\n  cluster.replicas: [1, 2]\n"
    )
    assert [cell.name for cell in found] == [
        "eviction=lru replicas=1",
        "eviction=lru replicas=2",
        "eviction=lfu replicas=1",
        "eviction=lfu replicas=2",
    ]
    assert found[1].params == {"policies.eviction": "lru", "cluster.replicas": 2}
    eviction = found[2].scenario.policies.eviction
    assert eviction is not None
    assert eviction.name == "lfu"
    assert found[2].scenario.pools[0].replicas == 1


def test_cells_keep_the_seed_and_lose_the_grid(tmp_path: Path) -> None:
    found = cells(tmp_path, "seed: 7\ncompare:\n  cluster.replicas: [1, 2]\n")
    assert {cell.scenario.seed for cell in found} == {7}
    assert {cell.scenario.compare for cell in found} == {None}


def test_names_say_what_differs(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        "compare:\n"
        "  policies.eviction: [lru, lfu, {name: lfu, counting: global}]\n"
        "  cluster.engine.async_scheduling: [true]\n",
    )
    assert [cell.name for cell in found] == [
        "eviction=lru async_scheduling=true",
        "eviction=lfu async_scheduling=true",
        "eviction=lfu(counting=global) async_scheduling=true",
    ]


def test_keys_with_equal_ends_are_named_in_full(tmp_path: Path) -> None:
    found = cells(tmp_path, "compare:\n  workload.requests: [3]\n  limits.requests: [1, 2]\n")
    assert [cell.name for cell in found] == [
        "workload.requests=3 limits.requests=1",
        "workload.requests=3 limits.requests=2",
    ]


def test_named_cells_change_several_keys_or_none(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        "compare:\n  cells:\n    as is: {}\n"
        "    wide: {cluster.tp: 2, cluster.engine.max_num_seqs: 9}\n",
    )
    assert [(cell.name, cell.params) for cell in found] == [
        ("as is", {}),
        ("wide", {"cluster.tp": 2, "cluster.engine.max_num_seqs": 9}),
    ]
    assert [cell.scenario.pools[0].tp for cell in found] == [1, 2]
    assert found[1].scenario.pools[0].engine.max_num_seqs == 9


def test_named_cells_multiply_with_keys(tmp_path: Path) -> None:
    found = cells(tmp_path, "compare:\n  cells: {a: {}, b: {cluster.tp: 2}}\n  seed: [1, 2]\n")
    assert [cell.name for cell in found] == ["a seed=1", "a seed=2", "b seed=1", "b seed=2"]


def test_a_cell_may_replace_the_cluster(tmp_path: Path) -> None:
    split = (
        "{pools: [{name: p, role: prefill, gpu: h100, model: llama-3.1-8b},"
        " {name: d, role: decode, gpu: h100, model: llama-3.1-8b}]}"
    )
    found = cells(
        tmp_path,
        f"links: {{kv: nvlink4}}\ncompare:\n  cells: {{a: {{}}, b: {{cluster: {split}}}}}\n",
    )
    assert [[pool.name for pool in cell.scenario.pools] for cell in found] == [
        ["serve"],
        ["p", "d"],
    ]


@pytest.mark.parametrize(
    "compare",
    [
        "cluster.replicas: [1, 2], cells: {a: {cluster.replicas: 3}}",
        "policies.eviction.name: [fifo, lru], policies.eviction: [lru, lfu]",
        "cluster.replicas: [1, 2], 'cluster.pools.serve.replicas': [3]",
        "cells: {a: {cluster.tp: 2, 'cluster.pools.0.tp': 1}}",
    ],
)
def test_one_cell_cannot_have_two_values_of_a_key(tmp_path: Path, compare: str) -> None:
    with pytest.raises(ScenarioError, match="set the same thing in one cell"):
        cells(tmp_path, f"compare: {{{compare}}}\n")


def test_a_parameter_may_be_compared_beside_its_policy(tmp_path: Path) -> None:
    found = cells(
        tmp_path, "compare: {policies.eviction: [lfu], policies.eviction.counting: [global]}\n"
    )
    assert [cell.name for cell in found] == ["eviction=lfu counting=global"]
