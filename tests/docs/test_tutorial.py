"""The README's own policy, and the other examples with code, run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infersim.cli.main import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ROUTING = (ROOT / "docs" / "routing.md").read_text("utf-8")
FILE = re.compile(r"^```\w+ (\S+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with every file that the two documents show."""
    for name, text in FILE.findall(README + ROUTING):
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells(document: str, scenario: str, *more: str) -> dict[str, Any]:
    """Run *scenario* with the command that *document* shows; metrics by name of the cell."""
    command = f"infersim run {scenario}"
    assert f"$ {command}\n" in document
    words = [*command.split()[1:], "--jobs", "1", "--quiet", "--no-report", "--out", "out", *more]
    assert run(words) == 0
    summary = json.loads(Path("out", "summary.json").read_text("utf-8"))
    return {cell["name"]: cell["metrics"] for cell in summary["cells"]}


def test_the_readme_s_policy_decides(folder: Path) -> None:
    found = cells(README, "keep_hit.yaml")
    lru, keep = found["eviction=lru"], found["eviction=keep_hit.py:KeepHit"]
    for metrics in (lru, keep):
        assert metrics["requests"] == {"arrived": 800, "finished": 800, "failed": 0, "shed": 0}
        assert metrics["evicted_blocks"] > 0
    said = f"rises from {lru['hit_rate']:.1%} to {keep['hit_rate']:.1%}".replace("%", " %")
    assert said in " ".join(README.split())


def test_its_parameter_counts(folder: Path) -> None:
    # a block that needs no hit to be kept is like any other: that is lru
    setting = "compare.policies.eviction=[lru, {policy: 'keep_hit.py:KeepHit', hits: 0}]"
    found = cells(README, "keep_hit.yaml", "--set", setting, "--set", "limits.requests=300")
    lru, keep = found.values()
    assert lru["evicted_blocks"] > 0
    assert keep == lru


def test_the_router_of_the_documents_decides(folder: Path) -> None:
    import pyarrow.parquet

    found = cells(ROUTING, "short_here.yaml")
    assert all(metrics["requests"]["finished"] == 200 for metrics in found.values())
    table = pyarrow.parquet.read_table("out/requests.parquet").to_pandas()
    ours = table[table["cell"] == "routing=short_here.py:ShortHere"]
    assert set(ours["prompt_tokens"]) == {200, 8000}
    assert set(ours[ours["prompt_tokens"] == 200]["replica"]) == {0}
    assert set(ours[ours["prompt_tokens"] == 8000]["replica"]) == {1, 2}
    others = table[table["cell"] == "routing=least-outstanding"]
    assert set(others[others["prompt_tokens"] == 8000]["replica"]) == {0, 1, 2}
