"""``infersim validate``: from a scenario and a run to a verdict, an exit code and a page."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infersim.calibrate.identify.logs import digest
from infersim.cli.main import run
from infersim.sim.cost.profile import Profile, Stamp, Table, save

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """The scenario's own run with its steps, in the place of a measurement."""
    folder = tmp_path_factory.mktemp("recording")
    (folder / "tiny.yaml").write_text(tiny_text)
    words = [str(folder / "tiny.yaml"), "--trace", "--quiet", "--no-report"]
    assert run(["run", *words, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def recorded(tiny: Path, recording: Path) -> Path:
    """A copy of it beside the scenario."""
    return Path(shutil.copytree(recording, "run"))


def validated(capsys: Captured, *words: str, code: int = 0) -> dict[str, Any]:
    assert run(["validate", *words, "--json", "--quiet", "--no-report"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def slower(folder: Path, factor: float) -> None:
    """Make every time of a recorded run *factor* times as long."""
    for name in ("requests.parquet", "steps.parquet", "series.parquet"):
        table = pq.read_table(folder / name)
        for column in table.column_names:
            if column.endswith("_ps"):
                times = table.column(column).to_numpy()
                scaled = np.where(times >= 0, np.round(times * factor), times).astype(np.int64)
                at = table.column_names.index(column)
                table = table.set_column(at, table.field(at), pa.array(scaled))
        pq.write_table(table, folder / name)


def error(cell: dict[str, Any], metric: str, stat: str = "mean") -> float:
    (row,) = [r for r in cell["rows"] if (r["metric"], r["stat"]) == (metric, stat)]
    found: float = row["error"]
    return found


def test_a_run_against_itself_has_no_error(recorded: Path, capsys: Captured) -> None:
    limits = (
        "ttft=0,tpot=0,itl=0.2,e2e=0,throughput=0,hit=0,kv-blocks=0,decisions=0,step=0,kv=0.999"
    )
    found = validated(capsys, "tiny.yaml", "--against", "run", "--tolerance", limits)
    (cell,) = found["cells"]
    assert all(row["met"] for row in found["checks"])
    assert cell["steps"]["first_difference"] is None
    assert cell["steps"]["same"] == cell["steps"]["measured"] > 100
    assert cell["paired"]
    assert {row["metric"] for row in cell["rows"]} >= {"itl_s", "hit_rate", "preemptions"}
    assert cell["ttft_share_of_e2e"] == 0
    assert any("only its decisions are evidence" in text for text in cell["caveats"]["warnings"])


def test_every_step_slower_is_reported_as_that(recorded: Path, capsys: Captured) -> None:
    slower(recorded, 1 / 0.97)
    limits = ["--tolerance", "tpot=2", "--tolerance", "step=2.9"]
    found = validated(capsys, "tiny.yaml", "--against", "run", *limits, code=1)
    (cell,) = found["cells"]
    assert error(cell, "tpot_s") == pytest.approx(-0.03, abs=1e-6)
    assert error(cell, "ttft_s", "p90") == pytest.approx(-0.03, abs=1e-6)
    assert error(cell, "output_tokens_per_s", "value") == pytest.approx(1 / 0.97 - 1, abs=1e-6)
    for row in cell["steps"]["times"]:
        assert row["bias"] == pytest.approx(-0.03, abs=1e-6)
    assert cell["steps"]["first_difference"] is None
    assert [row["met"] for row in found["checks"]] == [False, False]


def test_sensitivity_moves_the_figures(recorded: Path, capsys: Captured) -> None:
    found = validated(capsys, "tiny.yaml", "--against", "run")
    (row,) = [
        r for r in found["cells"][0]["rows"] if (r["metric"], r["stat"]) == ("tpot_s", "mean")
    ]
    assert 0.005 < row["changes"]["step time +1 %"] < 0.03
    assert -0.03 < row["changes"]["step time −1 %"] < -0.005
    assert set(row["changes"]) >= {"KV blocks +5 %", "KV blocks −5 %"}
    without = validated(capsys, "tiny.yaml", "--against", "run", "--no-sensitivity")
    assert without["cells"][0]["rows"][0]["changes"] == {}


def test_repeats_show_the_noise_of_the_measurement(recorded: Path, capsys: Captured) -> None:
    slower(Path(shutil.copytree(recorded, "again")), 1.02)
    against = ["--against", "run", "--against", "again", "--no-sensitivity"]
    found = validated(capsys, "tiny.yaml", *against)
    (row,) = [r for r in found["cells"][0]["rows"] if (r["metric"], r["stat"]) == ("e2e_s", "mean")]
    assert row["noise"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert row["error"] == pytest.approx(1 / 1.01 - 1, rel=1e-3)


def test_another_capacity_is_the_first_thing_said(recorded: Path, capsys: Captured) -> None:
    words = ["tiny.yaml", "--against", "run", "--set", "cluster.kv_blocks=1800"]
    found = validated(capsys, *words, "--no-sensitivity", "--tolerance", "kv-blocks=1", code=1)
    assert found["cells"][0]["capacity"]["error"] == pytest.approx(-0.1, abs=1e-3)
    assert "KV capacity is -10.0% off" in found["cells"][0]["caveats"]["warnings"][0]


def test_another_policy_is_found_in_the_steps(recorded: Path, capsys: Captured) -> None:
    words = ["tiny.yaml", "--against", "run", "--set", "cluster.engine.max_num_seqs=2"]
    assert run(["validate", *words, "--quiet", "--no-report", "--no-sensitivity"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the run had engine.max_num_seqs = 256, the scenario has 2" in out
    assert "steps were decided alike before the first difference: step" in out
    assert re.search(r"first difference: .*samples \d+ measured, 2 simulated", out)


def test_another_workload_is_not_compared_in_silence(recorded: Path, capsys: Captured) -> None:
    words = ["tiny.yaml", "--against", "run", "--set", "workload.requests=30", "--no-sensitivity"]
    (cell,) = validated(capsys, *words)["cells"]
    assert not cell["paired"]
    assert any("not the same ones: 40 of" in text for text in cell["caveats"]["warnings"])


def test_replay_takes_the_log_s_own_requests(tiny: Path, vllm_log: Path, capsys: Captured) -> None:
    words = ["tiny.yaml", "--replay", "--against", str(vllm_log), "--no-sensitivity"]
    (cell,) = validated(capsys, *words)["cells"]
    assert cell["paired"]
    assert cell["measured"][0]["requests"] == 3
    trace = Path("runs/tiny-validation/replay.jsonl").read_text().splitlines()
    assert [json.loads(line)["arrival_time_ns"] for line in trace] == [0, 250_000_000, 500_000_000]
    assert cell["caveats"]["notes"][0].startswith("replayed from the run's own arrivals")
    assert any("does not say its KV capacity" in text for text in cell["caveats"]["warnings"])


def test_a_log_s_settings_are_compared_with_the_scenario_s(
    tiny: Path, vllm_log: Path, capsys: Captured
) -> None:
    meta = {
        "engine_kwargs": {"max_num_batched_tokens": 2048, "tensor_parallel_size": 1},
        "kv_cache": {"num_gpu_blocks": 2000, "block_size": 16},
    }
    vllm_log.with_name("small_meta.json").write_text(json.dumps(meta))
    words = ["tiny.yaml", "--replay", "--against", str(vllm_log), "--no-sensitivity"]
    (cell,) = validated(capsys, *words)["cells"]
    assert cell["settings"] == [
        {"key": "engine.max_num_batched_tokens", "measured": 2048, "simulated": 8192}
    ]
    assert cell["capacity"]["error"] == 0  # 2,000 of both count vLLM's null block


def test_a_grid_is_ranked(tiny: Path, capsys: Captured) -> None:
    tiny.write_text(tiny.read_text() + "compare: {cluster.engine.max_num_seqs: [2, 4, 16]}\n")
    assert run(["run", "tiny.yaml", "-q", "--no-report", "--jobs", "1", "--out", "grid"]) == 0
    capsys.readouterr()
    words = ["tiny.yaml", "--against", "grid", "--no-sensitivity", "--tolerance", "tau=0.9,ttft=0"]
    found = validated(capsys, *words)
    taus = {row["metric"]: row["tau"] for row in found["ranking"]}
    assert taus["ttft_s"] == 1
    assert len(found["cells"]) == 3
    assert run(["validate", *words, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "3 cells: TPOT mean 0 % to 0 %" in out
    assert "Kendall τ of the ranking: TTFT 1.000" in out


# ---- what people see -----------------------------------------------------------------------------


def test_the_terminal_says_the_answer_first(recorded: Path, capsys: Captured) -> None:
    words = ["validate", "tiny.yaml", "--against", "run", "--tolerance", "ttft=2"]
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("tiny: TPOT mean 0 %, TTFT mean 0 % (0 % of mean E2E), E2E mean 0 %")
    assert "✓ ttft ≤ 2 %: 0 % (ttft mean)" in out
    assert "! step times are not calibrated on this GPU" in out
    assert out.rstrip().endswith("runs/tiny-validation/report.html")
    assert max(map(len, out.splitlines()[:-1])) <= 100
    assert "simulating with KV blocks −5 %" in err


def test_the_page_is_whole_and_opens_offline(recorded: Path, capsys: Captured) -> None:
    slower(recorded, 1.05)
    assert run(["validate", "tiny.yaml", "--against", "run", "--quiet"]) == 0
    text = Path("runs/tiny-validation/report.html").read_text()
    ids = re.findall(r'\sid="([^"]+)"', text.split("<script>")[0])
    assert len(ids) == len(set(ids))
    figures = json.loads(text.split('id="figures">')[1].split("</script>")[0])
    assert set(figures) == {
        "plot-errors-0",
        *(f"plot-{kind}-{m}_s-0" for kind in ("ecdf", "scatter") for m in ("ttft", "tpot", "e2e")),
        "plot-series-0",
        "plot-steps-0",
    }
    assert set(figures) <= set(ids)
    assert text.index("TPOT mean −4.8") < text.index("<table")
    assert not re.search(r'(src|href)="https?:', text.split("<script>")[0])


def test_the_same_call_gives_the_same_bytes(recorded: Path, capsys: Captured) -> None:
    texts = []
    for _ in range(2):
        assert run(["validate", "tiny.yaml", "--against", "run", "-q", "--no-sensitivity"]) == 0
        folder = Path("runs/tiny-validation")
        texts.append({p.name: p.read_bytes() for p in sorted(folder.iterdir())})
    assert texts[0] == texts[1]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny.yaml", "--against", "gone"], "no file or folder gone"),
        (["tiny.yaml", "--against", "tiny.yaml"], "no run to compare with"),
        (["tiny.yaml", "--against", "run", "--tolerance", "speed=2"], "unknown tolerance"),
        (
            ["tiny.yaml", "--against", "run", "--out", "run"],
            "holds something that is no validation",
        ),
        (["tiny.yaml"], "--against"),
        (["tinny.yaml", "--against", "run"], "no file tinny.yaml"),
    ],
)
def test_bad_input_is_said_and_leaves_with_2(
    recorded: Path, capsys: Captured, words: list[str], said: str
) -> None:
    assert run(["validate", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_a_damaged_run_is_said(recorded: Path, capsys: Captured) -> None:
    (recorded / "requests.parquet").write_bytes(b"PAR1")
    assert run(["validate", "tiny.yaml", "--against", "run"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_aggregates_cannot_be_replayed(tiny: Path, capsys: Captured) -> None:
    Path("bench.json").write_text('{"mean_ttft_ms": 3.0}')
    assert run(["validate", "tiny.yaml", "--replay", "--against", "bench.json"]) == 2
    assert "does not say when its requests arrived" in capsys.readouterr().err


def test_a_run_that_the_profile_was_fitted_to_is_no_evidence(
    recorded: Path, tmp_path: Path, capsys: Captured
) -> None:
    table = Table(op="down", times=32, by=("tokens",), points=((1.0, 1e-4), (4096.0, 1e-3)))
    profile = Profile(
        name="p",
        stamp=Stamp(
            origin="fitted", gpu="h100-sxm", source=f"fitted to run sha256 {digest(recorded)}"
        ),
        model="llama-3.1-8b",
        dtype="bf16",
        kv_dtype="bf16",
        attention="separate",
        tables=(table,),
    )
    save(profile, tmp_path / "fitted")
    words = ["tiny.yaml", "--set", "cluster.profile=fitted", "--quiet", "--no-report"]
    assert run(["validate", *words, "--against", "run"]) == 2
    assert "was fitted to run" in capsys.readouterr().err
    other = Path(shutil.copytree(recorded, "other"))
    slower(other, 1.5)
    validated(capsys, *words[:3], "--against", "other", "--no-sensitivity")
