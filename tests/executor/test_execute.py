"""``infersim execute``: files, clocks and refusals."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infersim.calibrate import execute
from infersim.calibrate.executor import texts
from infersim.cli.main import run
from infersim.policies.errors import InputError
from infersim.policies.types import MultiModalItem, Request
from infersim.scenarios import build, grid, load
from infersim.sim.state.content import Chains, Contents
from infersim.sim.state.sequence import Sequence

TEXT = """\
name: mini
seed: 3
cluster:
  gpu: cpu
  model: tiny
  kv_blocks: 101
  engine: {max_model_len: 400, max_num_batched_tokens: 128}
workload:
  kind: open-loop
  requests: 8
  arrivals: 100
  system: {tokens: 40}
  prompt_tokens: {kind: uniform, low: 5, high: 60}
  output_tokens: {kind: uniform, low: 1, high: 8}
"""


SEEING = """\
name: seeing
seed: 3
links: {embeddings: {latency_us: 10, gbytes_per_s: 1}}
cluster:
  pools:
    - {name: e, role: encode, gpu: cpu, model: tiny-vl}
    - {name: s, gpu: cpu, model: tiny-vl, kv_blocks: 101, engine: {max_model_len: 400}}
workload:
  kind: open-loop
  requests: 6
  arrivals: 100
  images: {count: 4, tokens: {kind: uniform, low: 9, high: 40}, per_request: 2}
  prompt_tokens: {kind: uniform, low: 5, high: 30}
  output_tokens: {kind: uniform, low: 1, high: 6}
"""

SWAPPING = "{preset: vllm-v0, preemption_mode: swap}"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(TEXT)


def folder(name: str) -> Path:
    (found,) = (path for path in Path("runs").iterdir() if path.name.startswith(name))
    return found


def test_a_virtual_run_is_the_simulated_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["execute", "mini.yaml", "--json", "--quiet"]) == 0
    executed = json.loads(capsys.readouterr().out)
    assert run(["run", "mini.yaml", "--json", "--quiet", "--trace", "--out", "runs/simulated"]) == 0
    simulated = json.loads(capsys.readouterr().out)
    assert executed["cells"] == simulated["cells"]
    mine = pd.read_parquet(folder("mini-executed-") / "steps.parquet")
    theirs = pd.read_parquet(folder("simulated") / "steps.parquet")
    assert mine[list(theirs.columns)].equals(theirs)
    assert {p.name for p in folder("mini-executed-").iterdir()} >= {
        "summary.json",
        "requests.parquet",
        "report.html",
        "timing.json",
    }


def test_images_of_a_virtual_run_are_the_simulated_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("seeing.yaml").write_text(SEEING)
    assert run(["execute", "seeing.yaml", "--json", "--quiet"]) == 0
    executed = json.loads(capsys.readouterr().out)
    assert run(["run", "seeing.yaml", "--json", "--quiet"]) == 0
    assert executed["cells"] == json.loads(capsys.readouterr().out)["cells"]


def test_encoders_on_a_real_clock_in_processes_of_their_own() -> None:
    Path("seeing.yaml").write_text(SEEING)
    source = load.read("seeing.yaml", ["workload.requests=3"])
    (cell,) = grid.cells(source)[1]
    real, virtual = (
        execute.execute_cell(cell, source.folders, execute.Options(clock=clock))
        for clock in ("wall", "virtual")
    )
    rows = real.records.requests
    assert (rows["status"] == "finished").all()
    assert (rows["encode_ps"] > 0).any()
    assert (rows["scheduled_ps"] - rows["arrival_ps"] >= rows["encode_ps"]).all()
    assert min(real.device_s, real.copying_s) > 0
    assert real.answers == virtual.answers


def test_images_need_a_tower_with_drawn_weights() -> None:
    pytest.importorskip("torch")
    Path("seeing.yaml").write_text(SEEING)
    source = load.read("seeing.yaml")
    (cell,) = grid.cells(source)[1]
    pools = build.assemble(cell, source.folders).pools
    assert execute.Devices(pools, 1, execute.Options()).sees
    assert not execute.Devices(pools, 1, execute.Options(weights=Path())).sees
    request = Request(7, 0, (), 1, 1, 0, items=(MultiModalItem(0, 0, 1),))
    seq = Sequence(request, 1, Chains().chain(()), 100)
    with pytest.raises(InputError, match="request 7 has images, and the model no vision tower"):
        texts.Texts(10, Contents(), sees=False).of(seq)


def test_a_real_clock_measures_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--clock", "wall", "--no-report", "--out", "wall"]
    assert run(["execute", "mini.yaml", *settings]) == 0
    assert "mini: computed for" in capsys.readouterr().err
    rows = pd.read_parquet("wall/requests.parquet")
    steps = pd.read_parquet("wall/steps.parquet")
    assert (rows["status"] == "finished").all()
    order = ["arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps"]
    assert all((rows[a] <= rows[b]).all() for a, b in itertools.pairwise(order))
    took = steps["end_ps"] - steps["start_ps"]
    assert (took.to_numpy()[1:] > 0).all()
    assert steps["start_ps"].is_monotonic_increasing
    assert np.all(steps["device_ps"].sum() <= steps["end_ps"].max())
    timing = json.loads(Path("wall/timing.json").read_text())
    assert 0 < timing["computing"][0]["device_s"] < timing["wall_s"]
    assert timing["computing"][0]["copying_s"] == 0
    summary = json.loads(Path("wall/summary.json").read_text())
    assert summary["provenance"]["cost_source"][0].startswith("measured: infersim's executor")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--set", "cluster.model=deepseek-v3"], "latent attention"),
        (["--set", "cluster.kv_blocks=unlimited"], "do not fit"),
        (["--set", "cluster.model=gpt-oss-20b"], "sliding windows"),
        (["--set", "cluster.dtype=fp8"], "computes in bf16"),
        (["--set", "cluster.kv_dtype=fp8"], "keeps KV in bf16"),
        (["--weights", "."], "no .safetensors file"),
        (["--cell", "other"], "unknown cell"),
        (["--clock", "wall", "--set", "cluster.engine=generate"], "computes no padding"),
        (
            ["--clock", "wall", "--set", f"cluster.engine={SWAPPING}"],
            "on a real clock the executor does not swap",
        ),
    ],
)
def test_what_it_cannot_do_it_refuses(
    settings: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["execute", "mini.yaml", *settings]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not Path("runs").exists()


def test_a_model_too_large_for_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(execute, "free_bytes", lambda device: 10**7)
    assert run(["execute", "mini.yaml"]) == 2
    assert "0.0 GB that are free" in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = execute.find_spec
    monkeypatch.setattr(execute, "find_spec", lambda name: None if name == "torch" else find(name))
    assert run(["execute", "mini.yaml"]) == 2
    assert "pip install" in capsys.readouterr().err


def test_simulating_imports_no_torch() -> None:
    script = (
        "import sys; from infersim.cli.main import run; "
        "code = run(['run', 'mini.yaml', '--quiet', '--no-report']); "
        "sys.exit(code or any(m.split('.')[0] in ('torch', 'triton') for m in sys.modules))"
    )
    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PAIR = """\
name: pair
seed: 3
cluster:
  pools:
    - {name: p, role: prefill, gpu: cpu, model: tiny, kv_blocks: 101,
       engine: {max_model_len: 400, max_num_batched_tokens: 128}}
    - {name: d, role: decode, gpu: cpu, model: tiny, kv_blocks: 101,
       engine: {max_model_len: 400, max_num_batched_tokens: 128}}
links: {kv: {latency_us: 10, gbytes_per_s: 10}}
workload:
""" + TEXT.split("workload:\n")[1]


@pytest.mark.parametrize("engine", ["vllm-v1", "sglang"])
def test_two_processes_move_kv_on_a_real_clock(engine: str) -> None:
    """Prefill and decode in processes of their own answer what one replica answers."""
    Path("pair.yaml").write_text(PAIR)
    done = {}
    engines = [f"cluster.pools.{i}.engine={engine}" for i in range(2 if engine == "sglang" else 0)]
    for name, clock, settings in (("mini", "virtual", []), ("pair", "wall", engines)):
        source = load.read(f"{name}.yaml", settings)
        (cell,) = grid.cells(source)[1]
        options = execute.Options(clock=clock)
        done[name] = execute.execute_cell(cell, source.folders, options)
    pair = done["pair"]
    rows = pair.records.requests
    assert set(rows["status"]) == {"finished"}
    assert set(rows["replica"]) == {1}
    assert set(rows["prefill_replica"]) == {0}
    assert (rows["remote_tokens"] > 0).all()
    assert (rows["transfer_ps"] > 0).all()
    assert 0 < pair.copying_s < pair.device_s
    for number, said in pair.answers[1].items():
        one = done["mini"].answers[0][number]
        assert said == {at: one[at] for at in said}
        count = int(rows["output_tokens"][number])
        assert len(said) >= count
