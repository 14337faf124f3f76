"""The whole loop on a CPU, in small: what is compared, and what is a fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the executor needs torch")

from infersim.calibrate import cpu_check
from infersim.calibrate.cpu_check import Case, decide, measure
from infersim.cli.main import run
from infersim.policies.errors import InputError
from infersim.sim.cost.profile import Host

FEW: dict[str, Any] = {
    "kind": "chat",
    "sessions": 4,
    "concurrency": 4,
    "turns": 1,
    "system": {"tokens": 40},
    "prompt_tokens": {"kind": "uniform", "low": 3, "high": 60},
    "output_tokens": {"kind": "uniform", "low": 3, "high": 12},
}


@pytest.fixture
def profile(tmp_path: Path, save_profile: Callable[[Path, Host], Path]) -> Path:
    """Of a host that is the device as well."""
    return save_profile(tmp_path / "profile", Host(step_s=1e-3, overlaps=False, pace_s=3e-5))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case of each kind."""
    case = Case(FEW, {}, {}, "hit_tokens")
    monkeypatch.setattr(cpu_check, "DECISIONS", {"few": case})
    monkeypatch.setattr(cpu_check, "TIMED", {"few": case})


def otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation decides one step more."""
    play = cpu_check.play

    def played(*given: Any, **more: Any) -> Any:
        found = play(*given, **more)
        assert found.run.steps is not None
        found.run.steps["digest"][5] += 1
        return found

    monkeypatch.setattr(cpu_check, "play", played)


@pytest.mark.parametrize("name", ["chat, lfu", "host memory tier"])
def test_shipped_cases_decide_alike(name: str, tmp_path: Path, profile: Path) -> None:
    found = decide(name, tmp_path, profile)
    assert found.alike
    assert found.same == found.steps > 100
    assert found.happened["preempted"] + found.happened["hit_tokens"] > 0


def test_there_are_cases_of_every_kind() -> None:
    assert len(cpu_check.DECISIONS) >= 6
    assert {case.must for case in cpu_check.DECISIONS.values()} == set(cpu_check.HAPPENINGS)
    assert any("offload" in case.pool for case in cpu_check.DECISIONS.values())
    assert any("split" in case.pool for case in cpu_check.DECISIONS.values())
    scored = [case.workload for case in cpu_check.TIMED.values()]
    assert len(scored) >= 2


@pytest.mark.usefixtures("small")
def test_a_decision_that_differs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: Path
) -> None:
    otherwise(monkeypatch)
    found = decide("few", tmp_path, profile)
    assert not found.alike
    assert found.same == 5


@pytest.mark.usefixtures("small")
def test_a_case_in_which_nothing_happens_proves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: Path
) -> None:
    monkeypatch.setitem(cpu_check.DECISIONS, "few", Case(FEW, {}, {}, "preempted"))
    with pytest.raises(InputError, match="preempted is 0"):
        decide("few", tmp_path, profile)


@pytest.mark.usefixtures("small")
def test_steps_of_the_real_clock_are_those_of_the_simulation(tmp_path: Path, profile: Path) -> None:
    found = measure(tmp_path, profile)
    (cell,) = found["cells"]
    steps = cell["steps"]
    assert steps["same"] == steps["measured"] == steps["simulated"] > 5
    assert steps["left_out"] == 0
    whole = steps["times"][0]
    assert whole["noise"] is not None
    assert whole["median"] > 0
    assert len(cell["measured"]) == cpu_check.REPEATS
    assert steps["pace"]["steps"] == steps["measured"]
    assert any("the host took" in note for note in cell["caveats"]["notes"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("fault", "code"), [(False, 0), (True, 1)])
def test_the_verb_prints_and_leaves_with_1_for_another_decision(
    fault: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    profile: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if fault:
        otherwise(monkeypatch)
    out = tmp_path / "out"
    assert run(["validate-cpu", "--profile", str(profile), "--out", str(out)]) == code
    told, progress = capsys.readouterr()
    assert "few: decisions, 1 of 1" in progress
    assert "steps alike" in told
    assert "repeats apart" in told
    kept = json.loads((out / "validation.json").read_text())
    assert kept["decisions"][0]["name"] == "few"
    html = (out / "report.html").read_text()
    assert "virtual clock, few" in html
    assert "<th" in html
    assert (out / "few.yaml").exists()


@pytest.mark.usefixtures("small")
def test_a_tolerance_that_is_broken_is_a_failure(
    tmp_path: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["validate-cpu", "--profile", str(profile), "--out", str(tmp_path / "out"), "-q"]
    assert run([*words, "--tolerance", "step=0.0001", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["met"] for row in found["checks"]] == [False]
