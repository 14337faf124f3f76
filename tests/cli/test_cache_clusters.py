"""``infersim cache --routing``: rows, a report, and what is refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from infersim.cli.main import run
from infersim.scenarios.cache import parallel

TRACE = "".join(
    json.dumps(
        {"timestamp": 1000 * i, "input_length": 1536, "output_length": 5, "hash_ids": [0, i % 4, i]}
    )
    + "\n"
    for i in range(1, 40)
)
STUDY = ("cache", "talk.jsonl", "--routing", "round-robin", "--jobs", "1", "--replicas", "2")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talk.jsonl").write_text(TRACE, "utf-8")


def test_json_is_a_row_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--kv-tokens", "4k", "--eviction", "lfu,belady", "--in-flight", "1", "--json")
    assert run([*STUDY, *more]) == 0
    rows = json.loads(capsys.readouterr().out)
    asked = {(row["eviction"], row["routing"], row["kv_tokens"]) for row in rows}
    assert asked == {
        *product(["lru"], ["one cache", "round-robin"], [2000, 4000, 8000, 0]),
        ("lfu", "round-robin", 4000),
        ("belady", "round-robin", 4000),
    }
    assert [row["eviction"] for row in rows if row["oracle"]] == ["belady"]
    assert {row["replicas"] for row in rows} == {1, 2}
    assert {row["trace"] for row in rows} == {"talk"}
    for row in rows:
        assert row["hit_rate"] == row["hit_tokens"] / row["prompt_tokens"]


def test_a_report_beside_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*STUDY, "--kv-tokens", "4k", "--eviction", "lru", "--report", "c.html"]) == 0
    table = capsys.readouterr().out
    assert "inf" in table
    assert "one cache" in table
    assert "Prefix caches: routing and eviction" in Path("c.html").read_text("utf-8")


def test_an_interrupt_prints_the_cells_that_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed, left = parallel.run_cell, [None] * 3

    def pressed(*given: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return replayed(*given)

    monkeypatch.setattr(parallel, "run_cell", pressed)
    command = [*STUDY, "--kv-tokens", "4k", "--eviction", "lru", "--report", "c.html", "--json"]
    assert run(command) == 130
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 3
    assert "error: interrupted; 3 of 8 cells are printed, and no report is written" in err
    assert not Path("c.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*STUDY, "--capacity", "10"), "with --routing the size of a replica is given in tokens"),
        ((*STUDY, "--report", "no/c.html"), "no such folder"),
        ((*STUDY, "--kv-tokens", "many"), 'found "many" where a number of tokens is expected'),
        (("cache", "talk.jsonl", "--report", "c.html"), "only where --routing names routers"),
        (("cache", "talk.jsonl", "--replicas", "3"), "--replicas"),
        (("cache", "talk.jsonl", "--in-flight", "3"), "--in-flight"),
        (("cache", "talk.jsonl", "--session-every-s", "3"), "--session-every-s"),
        (("cache", "talk.jsonl", "--jobs", "3"), "--jobs"),
        (("cache", "talk.jsonl", "talk.jsonl"), "2 traces: without --routing there is one"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(arguments)) == 2
    assert said in capsys.readouterr().err
