"""Which answers follow a grammar: a function of seed and request, in every kind of workload."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from infersim.policies.errors import InfersimError
from infersim.policies.types import PS_PER_S
from infersim.scenarios import build, grid, load
from infersim.sim.state.content import Contents
from infersim.sim.state.session import Call
from infersim.sim.state.streams import Streams

OPEN = {
    "kind": "open-loop",
    "requests": 400,
    "arrivals": 10,
    "prompt_tokens": 20,
    "output_tokens": 8,
}
ASK = {"share": 0.5, "count": 4, "zipf": 1, "compile_s": 0.02}
WORKLOADS: dict[str, dict[str, Any]] = {
    "open-loop": OPEN | {"grammars": ASK},
    "phases": {
        "kind": "phases",
        "phases": [OPEN | {"duration_s": 20, "grammars": ASK}, OPEN | {"duration_s": 20}],
    },
    "chat": {"kind": "chat", "sessions": 60, "arrivals": 5, "turns": 3, "grammars": ASK},
    "agent": {
        "kind": "agent",
        "sessions": 20,
        "concurrency": 5,
        "subagents": {"share": 0.3},
        "grammars": ASK,
    },
    "workflow": {"kind": "workflow", "sessions": 20, "arrivals": 5, "grammars": ASK},
    "trace": {"kind": "trace", "file": "t.csv", "grammars": ASK},
}


def scenario(tmp_path: Path, workload: dict[str, Any], **given: Any) -> Path:
    tmp_path.joinpath("t.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2024-05-10 00:00:{i % 60:02d}.{i:06d}+00:00,{40 + i},5\n" for i in range(60))
    )
    file = tmp_path / "s.yaml"
    cluster = {"gpu": "h100-sxm", "model": "qwen3-0.6b"} | given
    file.write_text(yaml.safe_dump({"name": "s", "cluster": cluster, "workload": workload}))
    return file


def calls(tmp_path: Path, workload: dict[str, Any]) -> list[Call]:
    """Those of an open loop."""
    source = load.read(str(scenario(tmp_path, workload)))
    (cell,) = grid.cells(source)[1]
    built = cell.scenario.workload.build(Streams(1), Contents(), source.folders, None)
    return [arrival.what for arrival in built.arrivals()]


def records(tmp_path: Path, workload: dict[str, Any], **given: Any) -> Any:
    source = load.read(str(scenario(tmp_path, workload, **given)))
    (cell,) = grid.cells(source)[1]
    return build.simulate_cell(cell, source.folders, leap=True, progress=lambda *_: None).records


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_kind_of_workload_may_ask_for_it(name: str, tmp_path: Path) -> None:
    found = records(tmp_path, WORKLOADS[name])
    waits = found.requests["grammar_ps"]
    assert (found.requests["status"] == "finished").all()
    assert 0.2 < (waits >= 0).mean() < 0.8 or name == "phases"
    assert found.totals["compiled_grammars"] <= 4
    assert -1 <= waits.min() <= waits.max() == PS_PER_S // 50
    assert any("bitmask_fill_s" in note for note in found.notes)


def test_share_and_popularity_are_as_asked(tmp_path: Path) -> None:
    grammars = [one.grammar for one in calls(tmp_path, WORKLOADS["open-loop"])]
    kinds = Counter(None if one is None else one.key for one in grammars)
    assert 0.42 < 1 - kinds[None] / 400 < 0.58
    assert kinds[0] > kinds[1] > kinds[3] > 0
    assert {one.compile_ps for one in grammars if one is not None} == {PS_PER_S // 50}


def test_a_larger_share_adds_to_a_smaller_one_and_nothing_else_moves(tmp_path: Path) -> None:
    found = {
        share: calls(tmp_path, OPEN | {"grammars": ASK | {"share": share}}) for share in (0.3, 0.6)
    }
    for few, more in zip(found[0.3], found[0.6], strict=True):
        assert few.grammar in (None, more.grammar)
        assert few._replace(grammar=None) == more._replace(grammar=None)
    assert [one._replace(grammar=None) for one in found[0.6]] == calls(tmp_path, OPEN)


def test_no_share_is_no_structured_output(tmp_path: Path) -> None:
    none, zero = (
        records(tmp_path, work) for work in (OPEN, OPEN | {"grammars": ASK | {"share": 0}})
    )
    assert zero.requests.keys() == none.requests.keys()
    assert all((zero.requests[name] == none.requests[name]).all() for name in none.requests)
    assert zero.totals == none.totals
    assert zero.notes == none.notes


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("share", 1.5, "less than or equal to 1"),
        ("share", "half", "number"),
        ("count", 0, "greater than or equal to 1"),
        ("compile_s", "fast", "number or a mapping"),
        ("compile_seconds", 1, "compile_s"),
        ("zipf", -1, "greater than or equal to 0"),
    ],
)
def test_bad_values_are_one_clear_error(key: str, value: Any, says: str, tmp_path: Path) -> None:
    source = load.read(str(scenario(tmp_path, OPEN | {"grammars": {key: value}})))
    with pytest.raises(InfersimError) as error:
        grid.cells(source)
    assert says in str(error.value)
    assert "grammars" in str(error.value)


@pytest.mark.parametrize(("engine", "apart"), [("vllm-v1", False), ("sglang", True)])
def test_each_engine_lets_them_wait_where_it_does(engine: str, apart: bool, tmp_path: Path) -> None:
    source = load.read(str(scenario(tmp_path, OPEN, engine=engine)))
    (cell,) = grid.cells(source)[1]
    made = build.assemble(cell, source.folders)
    assert made.config.pools[0].limits.grammars_apart == apart
