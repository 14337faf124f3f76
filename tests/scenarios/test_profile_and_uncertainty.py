"""``profile:`` and ``uncertainty:`` of a scenario, from the file to the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infersim.cli.main import app
from infersim.policies.errors import InputError
from infersim.scenarios import build, grid, load, sampling
from infersim.sim.cost import profile as profiles
from infersim.sim.cost.grades import GRADES
from infersim.sim.cost.profile import Capacity, Profile, Stamp, Table
from infersim.sim.cost.tables import TableCost

TEXT = """
name: small
seed: 3
cluster:
  gpu: rtx-4090
  model: llama-3.1-8b
  dtype: bf16
  profile: prof
  engine: {{max_num_batched_tokens: 2048}}
  {cluster}
workload: {{kind: open-loop, requests: 40, arrivals: 4, prompt_tokens: 300, output_tokens: 30}}
{more}
"""


def made(folder: Path, **changes: Any) -> Profile:
    ops = ("norm", "rope", "act", "qkv", "o", "gate_up", "down")
    tables = [
        Table(op=op, times=32, by=("tokens",), points=((1.0, 2e-5), (4096.0, 1e-3))) for op in ops
    ]
    points = tuple((float(b), float(x), 1e-9 * b * x) for b in (1, 256) for x in (16, 4096))
    by = ("decodes", "context_tokens")
    tables.append(Table(op="decode_attention", times=32, by=by, points=points))
    values: dict[str, Any] = {
        "name": "made up",
        "stamp": Stamp(origin="measured", gpu="rtx-4090"),
        "model": "llama-3.1-8b",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "attention": "separate",
        "tables": tuple(tables),
    }
    profile = Profile(**(values | changes))
    profiles.save(profile, folder / "prof")
    return profile


def written(folder: Path, cluster: str = "", more: str = "") -> Path:
    path = folder / "small.yaml"
    path.write_text(TEXT.format(cluster=cluster, more=more))
    return path


def pool(path: Path) -> Any:
    source = load.read(str(path))
    return build.pools(grid.cells(source)[0], source.folders)[0]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        pool(path)
    return str(caught.value)


def test_adapters_are_priced_by_a_table_of_them_or_said_to_cost_nothing(tmp_path: Path) -> None:
    def ran(**changes: Any) -> Any:
        made(tmp_path, **changes)
        text = written(tmp_path).read_text().replace("requests: 40", "requests: 40, adapters: 3")
        (tmp_path / "small.yaml").write_text(text)
        source = load.read(str(tmp_path / "small.yaml"))
        cell = grid.cells(source)[1][0]
        told = {"leap": True, "progress": lambda *_: None}
        return build.simulate_cell(cell, source.folders, **told).records

    bare = ran()
    assert any("adapters cost nothing" in note for note in bare.notes)
    points = ((1.0, 1e-4), (4096.0, 1e-3))
    lora = Table(op="lora", times=32, by=("tokens",), points=points)
    priced = ran(tables=(*made(tmp_path).tables, lora))
    assert not any("adapters cost nothing" in note for note in priced.notes)
    assert priced.totals["busy_ps"] > 1.05 * bare.totals["busy_ps"]


def test_a_pool_takes_its_profile_from_beside_the_scenario(tmp_path: Path) -> None:
    made(tmp_path)
    found = pool(written(tmp_path))
    assert isinstance(found.cost, TableCost)
    assert any("lm_head" in note for note in found.cost_notes)
    source = load.read(str(tmp_path / "small.yaml"))
    files = build.inputs([grid.cells(source)[0]], source.folders)
    assert files == {"prof/profile.json": tmp_path / "prof" / "profile.json"}


def test_no_such_profile(tmp_path: Path) -> None:
    said = refusal(written(tmp_path))
    assert "no profile directory prof" in said
    assert "cluster.profile" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "qwen3-8b"}, "of model qwen3-8b, the pool of llama-3.1-8b"),
        ({"dtype": "fp8"}, "of dtype fp8, the pool of bf16"),
        ({"kv_dtype": "fp8"}, "of kv_dtype fp8, the pool of auto"),
        ({"tp": 2}, "of tp 2, the pool of 1"),
        ({"stamp": Stamp(origin="measured", gpu="l40s")}, "of gpu l40s, the pool of rtx-4090"),
    ],
)
def test_times_of_something_else(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    made(tmp_path, **changes)
    found = refusal(written(tmp_path))
    assert said in found
    assert "cluster.profile" in found


def test_kv_blocks_of_the_same_limits_are_taken_over(tmp_path: Path) -> None:
    capacity = Capacity(
        kv_blocks=2588,
        block_size=16,
        max_num_batched_tokens=2048,
        max_num_seqs=256,
        memory_fraction=0.9,
    )
    made(tmp_path, capacity=capacity)
    found = pool(written(tmp_path))
    assert found.capacity.blocks == 2587
    assert "as the engine printed" in found.line()
    assert pool(written(tmp_path, "kv_blocks: 1000")).capacity.blocks == 999
    other = pool(written(tmp_path, "memory_fraction: 0.8"))
    assert other.capacity.computed is not None
    assert "measured with memory_fraction 0.9" in other.capacity.note


def run(folder: Path, *options: str) -> dict[str, Any]:
    out = folder / "out"
    result = CliRunner().invoke(
        app, ["run", str(folder / "small.yaml"), "--out", str(out), "--no-report", "-q", *options]
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_a_run_says_how_its_times_were_come_by(tmp_path: Path) -> None:
    made(tmp_path)
    written(tmp_path)
    metrics = run(tmp_path)["cells"][0]["metrics"]
    shares = metrics["step_time"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["measured"] + shares["interpolated"] > 0.5
    assert 0 < shares["datasheet"] < 0.5
    assert metrics["intervals"] is None
    assert (tmp_path / "out" / "prof" / "profile.json").is_file()


def test_leaps_change_no_share(tmp_path: Path) -> None:
    made(tmp_path)
    source = load.read(str(written(tmp_path)))
    cell = grid.cells(source)[1][0]
    leapt, stepped = (
        build.simulate_cell(cell, source.folders, leap=leap, progress=lambda *_: None)
        for leap in (True, False)
    )
    assert leapt.effort.leapt_steps > 0
    assert leapt.records.totals == stepped.records.totals
    graded = [leapt.records.totals.get(f"{grade}_ps", 0) for grade in GRADES]
    assert sum(graded) == pytest.approx(leapt.records.totals["busy_ps"], rel=1e-6)


def test_intervals_hold_the_figures_and_are_the_same_for_any_jobs(tmp_path: Path) -> None:
    made(tmp_path)
    written(tmp_path, more="uncertainty: {samples: 9}")
    one, two = (run(tmp_path, "--jobs", jobs) for jobs in ("1", "2"))
    assert one == two
    metrics = one["cells"][0]["metrics"]
    low, high = metrics["intervals"]["tpot_s"]["mean"]
    assert low < metrics["tpot_s"]["mean"] < high
    assert high / low < 1.5
    assert metrics["intervals"]["samples"] == 9


def test_each_sample_has_errors_of_its_own_and_every_cell_the_same(tmp_path: Path) -> None:
    made(tmp_path)
    more = "uncertainty: {samples: 2, seed: 5}\ncompare: {cluster.replicas: [1, 2]}"
    source = load.read(str(written(tmp_path, more=more)))
    cells = grid.cells(source)[1]
    wanted = sampling.samples(cells)
    assert [(cell.whose, cell.sample) for cell in wanted] == [
        (cell.name, k) for cell in cells for k in (1, 2)
    ]
    costs = [build.assemble(cell, source.folders).config.pools[0].cost for cell in wanted]
    times = [cost.decode_line(8, 1000).base_ps for cost in costs]
    assert times[0] == times[2] != times[1] == times[3]
