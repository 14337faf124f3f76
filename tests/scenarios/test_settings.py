"""--set and --seed: any key, in the words of the file."""

from pathlib import Path

import pytest

from infersim.policies.errors import InputError
from infersim.scenarios import grid, load
from infersim.scenarios.overrides import parse_setting, split_key
from infersim.scenarios.schema.scenario import Scenario

FLAT = """\
name: flat
cluster: {gpu: h100, model: llama-3.1-8b, engine: vllm-v1}
workload: {kind: open-loop, requests: 3, arrivals: 1}
policies: {eviction: lru}
"""
POOLS = """\
name: pools
cluster:
  pools:
    - {name: front, role: prefill, gpu: h100, model: llama-3.1-8b}
    - {name: back, role: decode, gpu: h100, model: llama-3.1-8b}
links: {kv: nvlink4}
workload: {kind: open-loop, requests: 3, arrivals: 1}
"""
COMPARED = FLAT + "compare:\n  policies.eviction: [lru, fifo]\n  cluster.replicas: [1, 2]\n"


def loaded(
    tmp_path: Path, text: str, *settings: str, seed: int | None = None
) -> tuple[Scenario, list[grid.Cell]]:
    (tmp_path / "s.yaml").write_text(text)
    return grid.cells(load.read(str(tmp_path / "s.yaml"), settings, seed))


def one(tmp_path: Path, text: str, *settings: str) -> Scenario:
    return loaded(tmp_path, text, *settings)[0]


def test_values_are_yaml(tmp_path: Path) -> None:
    scenario = one(tmp_path, FLAT, "cluster.replicas=1e1", "slo={ttft_s: 0.5}")
    assert scenario.pools[0].replicas == 10
    assert scenario.slo.ttft_s == 0.5


def test_later_settings_win(tmp_path: Path) -> None:
    assert one(tmp_path, FLAT, "seed=1", "seed=2").seed == 2
    assert loaded(tmp_path, FLAT, "seed=1", seed=3)[0].seed == 3


def test_short_forms_grow(tmp_path: Path) -> None:
    scenario = one(
        tmp_path,
        FLAT,
        "cluster.engine.max_num_seqs=4",
        "policies.eviction=lfu",
        "policies.eviction.counting=global",
        "links.kv=nvlink4",
    )
    assert scenario.pools[0].engine.max_num_seqs == 4
    assert scenario.policies.eviction is not None
    assert scenario.policies.eviction.params == {"counting": "global"}
    assert scenario.links.kv is not None
    assert scenario.links.kv.name == "nvlink4"


@pytest.mark.parametrize(
    "key", ["cluster.tp", "cluster.pools.0.tp", "cluster.pools[0].tp", "cluster.pools.serve.tp"]
)
def test_one_pool_has_several_names(tmp_path: Path, key: str) -> None:
    assert one(tmp_path, FLAT, f"{key}=2").pools[0].tp == 2


@pytest.mark.parametrize("key", ["cluster.pools.1.tp", "cluster.pools.back.tp"])
def test_pools_by_index_and_name(tmp_path: Path, key: str) -> None:
    scenario = one(tmp_path, POOLS, f"{key}=2")
    assert [pool.tp for pool in scenario.pools] == [1, 2]


def test_null_takes_a_section_away(tmp_path: Path) -> None:
    base, cells = loaded(tmp_path, COMPARED, "compare=null")
    assert base.compare is None
    assert [cell.params for cell in cells] == [{}]


def test_a_compared_key_is_fixed(tmp_path: Path) -> None:
    _, cells = loaded(tmp_path, COMPARED, "policies.eviction=lfu")
    assert [cell.name for cell in cells] == ["replicas=1", "replicas=2"]
    assert {cell.scenario.policies.eviction.name for cell in cells} == {"lfu"}
    _, cells = loaded(tmp_path, COMPARED, "policies.eviction=lfu", "cluster.pools.0.replicas=4")
    assert [(cell.name, cell.scenario.pools[0].replicas) for cell in cells] == [("flat", 4)]


def test_a_compared_seed_is_fixed(tmp_path: Path) -> None:
    _, cells = loaded(tmp_path, FLAT + "compare: {seed: [1, 2]}\n", seed=5)
    assert [cell.scenario.seed for cell in cells] == [5]


def test_an_axis_is_replaced(tmp_path: Path) -> None:
    _, cells = loaded(tmp_path, COMPARED, "compare.policies.eviction=[lfu]")
    assert [cell.name for cell in cells] == [
        "eviction=lfu replicas=1",
        "eviction=lfu replicas=2",
    ]


REFUSED = {
    "no value": ("cluster.replicas", "--set takes key=value"),
    "no key": ("=3", '"" is not a key'),
    "empty part": ("a..b=3", '"a..b" is not a key'),
    "not YAML": ("seed=[1", "not valid YAML"),
    "unknown key": ("sed=1", 'did you mean "seed"?'),
    "unknown deep key": ("cluster.engine.max_seqs=1", 'did you mean "max_num_seqs"?'),
    "through a number": ("seed.x=1", "found a mapping, must be an integer"),
    "wrong value": ("cluster.replicas=0", "found 0"),
    "no such pool": ("cluster.pools.sreve.tp=2", 'unknown pool "sreve"'),
    "no such index": ("cluster.pools.7.tp=2", 'unknown pool "7"'),
}


@pytest.mark.parametrize(("setting", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_setting_as_place(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, FLAT, setting)
    assert message in str(caught.value)
    assert caught.value.where.startswith(f"--set {setting}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cluster.tp=2", "the cluster has 2 pools"),
        ("cluster.pools.bakc.tp=2", 'did you mean "back"?'),
        ("cluster.pools.2.tp=2", "has 2 elements and no number 2"),
    ],
)
def test_refused_where_there_are_pools(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tmp_path, POOLS, setting)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", [COMPARED, FLAT + "compare: {cells: {a: {policies.eviction: lfu}}}\n"]
)
def test_what_compare_would_undo_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="varied by compare:, which would undo this"):
        loaded(tmp_path, text, "policies.eviction.counting=global")


def test_keys() -> None:
    assert split_key("a.b[2].c") == ("a", "b", 2, "c")
    assert split_key("compare.policies.eviction") == ("compare", "policies.eviction")
    assert split_key("compare.cells.a") == ("compare", "cells", "a")
    assert parse_setting("a=b=c") == (("a",), "b=c")
    assert parse_setting("a=") == (("a",), None)
