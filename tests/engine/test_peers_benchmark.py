"""`benchmarks/peers.py` where no other simulator is installed, and how it times steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Rows = list[tuple[float, int, int]]


#: first tokens in ms after the arrival, as ai-dynamo 1.4.2 printed them for the same table
DYNAMO: dict[str, tuple[Rows, list[float]]] = {
    "one prompt": ([(0, 100, 5)], [8.056]),
    "in two parts": ([(0, 3000, 2)], [67.504]),
    "a part beside a prompt": ([(0, 3000, 2), (10, 100, 2)], [69.56, 59.56]),
    "parts fill the budget": ([(0, 3000, 2), (10, 1096, 2)], [89.976, 79.976]),
}


@pytest.mark.parametrize(("rows", "dynamo_ms"), DYNAMO.values(), ids=DYNAMO.keys())
def test_steps_are_priced_as_dynamo_prices_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: Rows, dynamo_ms: list[float]
) -> None:
    """Up to half a block a sequence, which Dynamo rounds up and infersim averages: 4 us."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    peers, players = import_module("peers"), import_module("players")
    trace, times = tmp_path / "trace.jsonl", tmp_path / "times.json"
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    blocks = [[*range(100 * i, 100 * i - (-row[1] // 512))] for i, row in enumerate(rows)]
    whole = [zip(keys, (*row, ids), strict=True) for row, ids in zip(rows, blocks, strict=True)]
    trace.write_text("".join(json.dumps(dict(row)) + "\n" for row in whole))
    case = asdict(peers.CASES["1 worker, near saturation"]) | {"times": str(times)}
    players.infersim(case, trace)
    assert json.loads(times.read_text()) == pytest.approx(dynamo_ms, abs=0.0043 * len(rows))


def test_what_is_not_installed_is_left_out_with_the_reason(tmp_path: Path) -> None:
    """infersim plays alone."""
    nobody = tmp_path / "python"
    nobody.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    nobody.chmod(0o755)
    words = ["--requests", "30", "--turns", "1", "--case", "1 worker, near"]
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "peers.py"),
            *words,
            "--dynamo",
            nobody,
            "--vidur",
            nobody,
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    for peer in ("Dynamo", "Vidur"):
        reason = next(line for line in lines if line.startswith(f"{peer}: left out"))
        assert reason.endswith("no such module")
    assert "prototype: left out, no --leap FOLDER" in lines
    assert [line.split()[0] for line in lines if line.endswith("%")] == ["infersim"]
    assert lines[-1].endswith("100.0%")
