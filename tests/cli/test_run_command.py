"""``infersim run``: what it prints, what it writes, how it leaves."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from infersim.cli import output
from infersim.cli.main import run

TEXT = """\
name: tiny
seed: 3
cluster: {gpu: h100-sxm, model: llama-3.1-8b}
workload: {kind: open-loop, requests: 40, arrivals: 20, system: {tokens: 500}}
"""
FILES = {
    "report.html",
    "requests.parquet",
    "scenario.yaml",
    "series.parquet",
    "summary.json",
    "timing.json",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TEXT)


def folder() -> Path:
    (found,) = Path("runs").iterdir()
    return found


def test_it_writes_a_whole_folder_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "tiny.yaml"]) == 0
    out, err = capsys.readouterr()
    assert {path.name for path in folder().iterdir()} == FILES
    assert folder().name.startswith("tiny-")
    assert out.rstrip().endswith(f"runs/{folder().name}/report.html")
    assert "KV blocks of 16" in err.splitlines()[0]
    assert "[1/1] tiny: done" in err
    assert "could not be leapt over" in err
    assert "\x1b" not in out + err


def test_the_summary_is_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "tiny.yaml", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (folder() / "summary.json").read_text()
    summary = json.loads(out)
    assert (summary["scenario"], summary["seed"]) == ("tiny", 3)
    assert set(summary["provenance"]) >= {"version", "git_commit", "cost_source", "seed"}
    (cell,) = summary["cells"]
    assert cell["metrics"]["requests"] == {"arrived": 40, "finished": 40, "failed": 0, "shed": 0}
    assert cell["metrics"]["hit_rate"] > 0.3
    timing = json.loads((folder() / "timing.json").read_text())
    assert timing["cells"][0]["steps"] > 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    grid = ["--set", "compare={cluster.replicas: [1, 2]}", "--quiet", "--no-report"]
    assert run(["run", "tiny.yaml", *grid, "--out", "a", "--jobs", "1"]) == 0
    assert run(["run", "tiny.yaml", *grid, "--out", "b", "--jobs", "2"]) == 0
    assert run(["run", "tiny.yaml", *grid, "--out", "c", "--no-leap", "--jobs", "1"]) == 0
    assert run(["run", "tiny.yaml", *grid, "--out", "d", "--seed", "4", "--jobs", "1"]) == 0
    for name in ("summary.json", "requests.parquet", "series.parquet", "scenario.yaml"):
        bytes_of = [Path(run_, name).read_bytes() for run_ in "abcd"]
        assert bytes_of[0] == bytes_of[1] == bytes_of[2] != bytes_of[3], name


def test_the_resolved_scenario_runs_again(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from infersim.policies.routing.base import Router\n\n"
        '@dataclass\nclass First(Router):\n    """The first."""\n\n'
        "    def route(self, request, cluster):\n        return cluster.replicas[0].id\n"
    )
    text = TEXT + "policies: {routing: 'mine.py:First'}\n"
    (tmp_path / "far" / "s.yaml").write_text(text)
    assert run(["run", "far/s.yaml", "--quiet"]) == 0
    first = folder()
    assert (first / "mine.py").is_file()
    assert run(["run", str(first / "scenario.yaml"), "--quiet", "--out", "again"]) == 0
    assert Path("again/summary.json").read_bytes() == (first / "summary.json").read_bytes()


def test_an_earlier_run_is_replaced_whole() -> None:
    assert run(["run", "tiny.yaml", "--quiet", "--out", "x"]) == 0
    assert run(["run", "tiny.yaml", "--quiet", "--out", "x", "--no-report"]) == 0
    assert {path.name for path in Path("x").iterdir()} == FILES - {"report.html"}
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml", "x"]


@pytest.mark.parametrize("is_file", [True, False])
def test_what_is_no_run_is_not_replaced(is_file: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if is_file:
        Path("mine").write_text("precious")
    else:
        Path("mine").mkdir()
        Path("mine/precious").touch()
    assert run(["run", "tiny.yaml", "--quiet", "--out", "mine"]) == 2
    assert "--out" in capsys.readouterr().err
    assert Path("mine").is_file() or [p.name for p in Path("mine").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("slo", "arguments", "code"),
    [("10", [], 0), ("0.000001", [], 3), ("0.000001", ["--no-fail"], 0)],
)
def test_slo(slo: str, arguments: list[str], code: int) -> None:
    command = ["run", "tiny.yaml", "--quiet", "--set", f"slo.ttft_s={slo}", *arguments]
    assert run(command) == code
    assert (folder() / "summary.json").is_file()


def test_one_cell_that_meets_the_slo_is_enough() -> None:
    grid = "compare={cells: {a: {}, b: {slo.ttft_s: 0.000001}}}"
    assert run(["run", "tiny.yaml", "-q", "--set", grid, "--set", "slo.ttft_s=10"]) == 2
    grid = "compare={slo.ttft_s: [10, 0.000001]}"
    assert run(["run", "tiny.yaml", "-q", "--jobs", "1", "--set", grid]) == 0


def test_a_full_disk_leaves_nothing_half_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "tiny.yaml", "--quiet", "--out", "x"]) == 0
    before = Path("x/summary.json").read_bytes()

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(output, "_write", full)
    assert run(["run", "tiny.yaml", "--quiet", "--out", "x", "--seed", "9"]) == 1
    err = capsys.readouterr().err
    assert "x cannot be written: No space left on device" in err
    assert "TTFT" in err  # the figures are not lost
    assert "Traceback" not in err
    assert Path("x/summary.json").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml", "x"]


def test_a_place_that_cannot_be_written_is_refused_before_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["run", "tiny.yaml", "--quiet", "--out", "tiny.yaml/x"]) == 2
    assert "tiny.yaml/x cannot be written: Not a directory" in capsys.readouterr().err
    assert run(["run", "tiny.yaml", "--quiet", "--out", "/proc/x"]) == 2
    assert "/proc/x cannot be written" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["tiny.yaml"]


def test_a_cell_that_fails_does_not_take_the_others_along(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("wrong.py").write_text(
        "from dataclasses import dataclass\n\n"
        '@dataclass\nclass Wrong:\n    """Wrong."""\n\n'
        "    def route(self, request, cluster):\n        raise RuntimeError('no idea')\n"
    )
    grid = "compare={policies.routing: [round-robin, 'wrong.py:Wrong']}"
    assert run(["run", "tiny.yaml", "--quiet", "--jobs", "1", "--set", grid]) == 1
    out, err = capsys.readouterr()
    assert "RuntimeError: no idea" in err
    assert "wrong.py:8" in err
    assert "Traceback" not in err
    assert folder().name.endswith("-incomplete")
    summary = json.loads((folder() / "summary.json").read_text())
    assert summary["incomplete"] == ["routing=wrong.py:Wrong"]
    assert [cell["name"] for cell in summary["cells"]] == ["routing=round-robin"]
    assert "INCOMPLETE" in (folder() / "report.html").read_text()
    assert "INCOMPLETE" in out


def test_a_terminal_gets_a_bar_with_simulated_time_rate_and_time_left() -> None:
    command = [sys.executable, "-m", "infersim", "run", "tiny.yaml", "--no-report"]
    settings = ["--set", "workload.requests=3000", "--set", "workload.arrivals=60"]
    terminal, end = os.openpty()
    started = subprocess.Popen([*command, *settings], stderr=end, stdout=subprocess.PIPE)
    os.close(end)
    seen = b""
    with suppress(OSError):  # the terminal is gone when the command has ended
        while part := os.read(terminal, 4096):
            seen += part
    os.close(terminal)
    out = started.communicate(timeout=60)[0]
    assert started.returncode == 0
    assert b"simulated" in seen
    assert b"requests \xc2\xb7" in seen
    assert b"left" in seen
    assert b"\x1b" in seen
    assert b"\x1b" not in out


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_an_interrupt_keeps_the_cells_that_ended() -> None:
    """The first cell is quick; the second would take minutes."""
    grid = "compare={workload.requests: [20, 2000000]}"
    command = [sys.executable, "-m", "infersim", "run", "tiny.yaml", "--set", grid, "--jobs", "2"]
    started = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert started.stderr is not None
    for line in started.stderr:
        if "requests=20: done" in line:
            break
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err
    summary = json.loads((folder() / "summary.json").read_text())
    assert folder().name.endswith("-incomplete")
    assert [cell["name"] for cell in summary["cells"]] == ["requests=20"]
    assert summary["incomplete"] == ["requests=2000000"]
    assert "INCOMPLETE" in out


def test_an_interrupt_before_a_cell_ended_says_that_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infersim.scenarios.build.simulate_cell", pressed)
    assert run(["run", "tiny.yaml", "--quiet"]) == 130
    assert capsys.readouterr().err == "error: interrupted; no cell had ended\n"
    assert not Path("runs").exists()


def test_an_interrupt_while_a_file_is_read_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infersim.scenarios.load.read", pressed)
    assert run(["run", "tiny.yaml"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_interrupt_waits_until_a_finished_run_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from infersim.reports import page

    written = page.write_report

    def interrupted(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        written(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(page, "write_report", interrupted)
    assert run(["run", "tiny.yaml", "--quiet"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert {path.name for path in folder().iterdir()} == FILES


def test_nothing_heavy_is_imported_that_a_run_does_not_need() -> None:
    script = (
        "import sys\nfrom infersim.cli.main import run\n"
        "code = run(['run', 'tiny.yaml', '--quiet'])\n"
        "print(code, sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'triton'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_traced_run_has_its_steps_and_the_same_summary() -> None:
    assert run(["run", "tiny.yaml", "--quiet", "--out", "plain"]) == 0
    assert run(["run", "tiny.yaml", "--quiet", "--out", "traced", "--trace"]) == 0
    assert {path.name for path in Path("traced").iterdir()} == FILES | {"steps.parquet"}
    summary = Path("traced/summary.json").read_bytes()
    assert summary == Path("plain/summary.json").read_bytes()
    steps = pd.read_parquet("traced/steps.parquet")
    metrics = json.loads(summary)["cells"][0]["metrics"]
    assert len(steps) == metrics["steps"]
    assert steps["hit_tokens"].sum() == metrics["hit_tokens"]
    assert json.loads(Path("traced/timing.json").read_text())["leap"] is False
