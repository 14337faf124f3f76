"""``benchmarks/gpu.py`` on a CPU, in small: which files and fields it leaves, not what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch", reason="the executor needs torch")
# not imported here: whether kernels are interpreted is read when triton is
if importlib.util.find_spec("triton") is None:
    pytest.skip("kernels need triton", allow_module_level=True)

from infersim.sim.cost.profile import PROFILE, SAMPLES, Host

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name: str) -> ModuleType:
    """A script's module, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def measured(out: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, results.json, what was printed) of the script."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--cpu", "--out", str(out), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    file = out / "results.json"
    assert file.exists(), done.stderr
    return done.returncode, json.loads(file.read_text()), done.stdout


def test_parts_leave_their_tables_and_one_that_fails_leaves_the_others(
    tmp_path: Path, save_profile: Callable[[Path, Host], Path]
) -> None:
    save_profile(tmp_path / "profile-tiny", Host(step_s=5e-3, overlaps=False))
    earlier = {"state": "done", "provenance": {"kind": "cuda", "kernels": "a" * 64}, "seconds": 1}
    earlier["result"] = {"last": "of an earlier call", "broken": []}
    kept = {"format": "infersim-gpu-1", "parts": {"tests": earlier}}
    (tmp_path / "results.json").write_text(json.dumps(kept))
    words = ("--parts", "kernels,validate", "--models", "tiny", "nothing", "--repeats", "1")
    few = ("--only", "documents-knee-lru", "--seconds", "0.1", "--commit", "0123")
    code, found, printed = measured(tmp_path, *words, *few)
    assert code == 1
    parts = found["parts"]
    assert {name: part["state"] for name, part in parts.items()} == {
        "tests": "done",
        "kernels": "done",
        "validate tiny": "done",
        "validate nothing": "failed",
    }
    assert parts["tests"] == earlier
    assert "of an earlier call" in printed
    assert "profile-nothing" in parts["validate nothing"]["why"]
    rows = parts["kernels"]["result"]["rows"]
    assert [one["op"] for one in rows] == ["decode", "prefill"] * 2
    assert all(one["right"] and one["sdpa_apart"] < 1e-4 for one in rows[:2])
    assert all(one["goal"] is one["met"] is None for one in rows[:2])
    assert all("nothing" in one["failed"] for one in rows[2:])
    assert len(parts["kernels"]["result"]["broken"]) == 2
    (row,) = parts["validate tiny"]["result"]["rows"]
    assert (row["cell"], row["load"]) == ("documents-knee-lru", "knee")
    assert row["steps"] > 0
    assert row["tpot_mean"]["measured"] > 0
    assert row["tpot_mean"]["simulated"] > 0
    assert 0 < row["hit_rate"]["measured"] < 1
    assert row["checks"] == []  # no limit is for a CPU
    about = parts["validate tiny"]["provenance"]
    assert about["commit"] == "0123"
    assert len(about["kernels"]) == 64
    assert about["torch"]
    assert (tmp_path / "results.md").read_text().strip() == printed.strip()
    assert "no figure means anything" in printed


@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path) -> None:
    code, found, printed = measured(
        tmp_path, "--minutes", "3", "--repeats", "1", "--seconds", "0.2"
    )
    assert code == 0, printed
    assert [part["state"] for part in found["parts"].values()] == ["done"] * 4
    result = found["parts"]["validate tiny"]["result"]
    assert len(result["rows"]) >= 8
    assert {row["load"] for row in result["rows"]} == {"below", "knee", "above"}
    assert {one["metric"] for one in result["ranking"]} >= {"ttft_s", "tpot_s", "hit_rate"}
    assert found["parts"]["calibrate tiny"]["result"]["measured"] > 100
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == [
        f"profile-tiny/{PROFILE}",
        f"profile-tiny/{SAMPLES}",
        "results.json",
        "results.md",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--parts", "kernel"], "no part is named kernel"),
        (["--repeats", "0"], "--repeats is at least 1"),
    ],
)
def test_bad_input_is_said(words: list[str], told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert not list(tmp_path.iterdir())


def test_limits_of_a_gpu_are_those_that_the_tables_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that keeps its goal, one that misses it, one that is wrong and one that failed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kernels, report = module("gpu_kernels"), module("gpu_report")
    one = {"model": "m", "op": "decode", "batch": 32, "context": 4096, "error": 2e-3, "right": True}
    one |= {"seconds": 1e-3, "rate": 3e12, "share": 0.9, "goal": 0.8, "met": True, "sdpa_s": 2e-3}
    rows = [
        one,
        one | {"share": 0.7, "met": False},
        one | {"op": "prefill", "error": 0.2, "right": False, "met": False},
        {"model": "m", "op": "prefill", "batch": 1, "context": 8192, "failed": "out of memory"},
    ]
    top = {"copy_bytes_per_s": 3e12, "product_flops_per_s": 8e14}
    result = {"ceilings": top, "rows": rows, "launches": [], "skipped": 2}
    assert kernels.broken(result) == [
        "m decode, batch 32, 4,096 tokens: 70% of the ceiling, not 80%",
        "m prefill, batch 32, 4,096 tokens: off the reference by 20.00%",
        "m prefill, batch 1, 8,192 tokens: out of memory",
        "2 rows were not measured: no time was left",
    ]
    about = {"kind": "cuda", "name": "a GPU", "kernels": "0" * 64, "torch": "2"}
    part = {"state": "done", "provenance": about, "result": result | {"broken": ["x"]}}
    page = report.render({"parts": {"kernels": part}})
    assert "| m | 32 | 4,096 | 1000.0 | 3000 | 90.0% | 80% | yes | 2.0e-03 | 2000.0 | – |" in page
    assert "2.0e-01 WRONG" in page
    assert "failed: out of memory" in page
    assert "- not kept: x" in page
    assert "no figure means anything" not in page
