"""The scenarios that come along: what they ask, that they resolve, and where traces are found."""

from pathlib import Path

import pytest

from infersim.cli.output import scenario_text
from infersim.scenarios import build, grid, load
from infersim.sim.state.records import CellRecords

EXPECTED = {
    "agent_cache_break",
    "agent_loop",
    "azure_code",
    "agent_tools",
    "agent_workflow",
    "bursty_api",
    "chat_multiturn",
    "chunk_budget",
    "encoder_split",
    "engines",
    "coding_agents",
    "feedback_queue",
    "image_pools",
    "long_context",
    "moe_ranks",
    "mooncake_conversation",
    "pd_variants",
    "pd_vs_colocated",
    "prefix_tree",
    "prompt_order",
    "prompt_starvation",
    "rag_shared_documents",
    "role_switching",
    "shared_system_prompt",
    "structured_output",
    "swap_or_recompute",
    "tenants",
    "validate_vllm_4090",
}


@pytest.fixture(autouse=True)
def _without_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INFERSIM_TRACES", raising=False)
    monkeypatch.chdir(tmp_path)


def run(cell: grid.Cell, folders: tuple[Path, ...]) -> CellRecords:
    return build.simulate_cell(cell, folders, leap=True, progress=lambda *told: None).records


def test_names() -> None:
    assert set(load.shipped()) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_asks_a_question_first(name: str) -> None:
    first = load.find(name).read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?")


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_resolved_scenario_loads_as_the_same(name: str, tmp_path: Path) -> None:
    base, cells = grid.cells(load.read(name))
    (tmp_path / "again.yaml").write_text(scenario_text(base))
    again, same = grid.cells(load.read(str(tmp_path / "again.yaml")))
    assert again.resolved() == base.resolved()
    assert [cell.scenario.resolved() for cell in same] == [
        cell.scenario.resolved() for cell in cells
    ]


def test_an_absent_trace_is_said() -> None:
    source = load.read("azure_code", ["limits.requests=5", "compare=null"])
    (cell,) = grid.cells(source)[1]
    notes = run(cell, source.folders).notes
    assert "azure2023_code.csv.gz is absent" in notes[0]
    assert "https://github.com/Azure/AzurePublicDataset" in notes[0]


def test_a_trace_is_found_through_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    rows = "".join(f"2023-11-16 18:15:4{i}.68,{100 + i},10\n" for i in range(3))
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows
    (tmp_path / "far" / "mine.csv").write_text(text)
    monkeypatch.setenv("INFERSIM_TRACES", str(tmp_path / "far"))
    source = load.read("azure_code", ["workload.file=mine.csv", "compare=null"])
    (cell,) = grid.cells(source)[1]
    records = run(cell, source.folders)
    assert records.requests["prompt_tokens"].tolist() == [100, 101, 102]
    assert build.inputs([cell.scenario], source.folders) == {"mine.csv": tmp_path / "far/mine.csv"}
