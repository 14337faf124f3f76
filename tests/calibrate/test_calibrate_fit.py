"""Fitting to logs that were written from known scales and host terms."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from infersim.calibrate.identify.datasheet import datasheet_profile
from infersim.calibrate.identify.families import HOST, columns
from infersim.calibrate.identify.observed import shape
from infersim.calibrate.identify.solve import identify
from infersim.calibrate.measure.shapes import Shapes
from infersim.cli.main import run
from infersim.scenarios.catalog import load
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.profile import Profile
from infersim.sim.cost.profile import load as load_profile

SCENARIO = """\
name: fitted
seed: 1
cluster: {gpu: h100, model: llama-3.1-8b, kv_blocks: 8000}
workload:
  kind: open-loop
  requests: 20
  arrivals: 5
  prompt_tokens: {kind: lognormal, median: 300, sigma: 0.5, max: 2000}
  output_tokens: {kind: lognormal, median: 50, sigma: 0.3, max: 200}
"""
TRUTH = {"dense": 1.3, "attention": 0.8, "step_s": 2e-3, "sequence_s": 2e-5}


def base() -> Profile:
    shapes = Shapes(load.model("llama-3.1-8b"), "bf16", "bf16", 1, False, 16, 8192, 256, 131_072)
    return datasheet_profile(shapes, load.gpu("h100"))


def steps(count: int) -> list[StepShape]:
    """Decode and mixed steps of all sizes."""
    random = Random(3)
    found = []
    for i in range(count):
        decodes = random.randint(1, 256)
        held = decodes * random.randint(50, 20_000)
        chunks = random.randint(1, 3) if i % 3 == 0 else 0
        tokens = sum(random.randint(50, 2000) for _ in range(chunks))
        found.append(shape(decodes, held, chunks, tokens, 0, decodes + chunks))
    return found


def seconds(shapes: list[StepShape], noise: float = 0.01) -> list[float]:
    """What they would take by `TRUTH`; what it does not name has scale 1 and no host term."""
    names, matrix = columns(base(), [(one,) for one in shapes])
    values = [TRUTH.get(name, 0.0 if name in HOST else 1.0) for name in names]
    random = Random(4)
    return [float(s) * random.gauss(1, noise) for s in matrix @ np.array(values)]


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """The scenario of the run."""
    path = tmp_path / "fitted.yaml"
    path.write_text(SCENARIO)
    return path


def fitted(log: Path, scenario: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict:  # type: ignore[type-arg]
    """`infersim calibrate fit`, as JSON."""
    words = ["calibrate", "fit", "--from", str(log), "--scenario", str(scenario), "--json", "-q"]
    code = run([*words, "--out", str(out)])
    said = capsys.readouterr()
    assert code == 0, said.err
    found: dict[str, object] = json.loads(said.out)
    return found


def test_a_vllm_log_gives_back_scales_host_terms_and_capacity(
    tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = steps(400)
    capacity = 6_000_000
    lines = [f"INFO GPU KV cache size: {capacity:,} tokens", "INFO something else"]
    for i, (one, took) in enumerate(zip(shapes, seconds(shapes), strict=True)):
        chunk = sum(new for new, _ in one.prefills)
        lines.append(
            f"INFO (EngineCore_DP0 pid=1) Iteration({i}): {len(one.prefills)} context requests, "
            f"{chunk} context tokens, {one.decodes} generation requests, {one.decodes} generation "
            f"tokens, iteration elapsed time: {1e3 * took:.4f} ms, GPU KV cache usage: "
            f"{100 * one.decode_context_tokens / capacity:.6f}%"
        )
    lines.append(
        "Iteration(999): 0 context requests, 0 context tokens, 0 generation requests, 0 "
        "generation tokens, iteration elapsed time: 99.00 ms (dummy)"
    )
    log = tmp_path / "server.log"
    log.write_text("\n".join(lines))
    found = fitted(log, scenario, tmp_path / "out", capsys)
    terms = {term["name"]: term for term in found["terms"]}
    assert found["timings"] == 400
    for name in ("dense", "attention", "step_s"):
        assert terms[name]["identified"]
        assert terms[name]["value"] == pytest.approx(TRUTH[name], rel=0.05)
        assert terms[name]["low"] < TRUTH[name] * 1.02
        assert terms[name]["high"] > TRUTH[name] * 0.98
    assert not terms["elementwise"]["identified"]  # it goes with tokens as the products do
    assert terms["elementwise"]["value"] == 1.0
    profile = load_profile(tmp_path / "out")
    assert profile.capacity is not None
    assert profile.capacity.kv_blocks == capacity // 16
    assert profile.stamp.origin == "fitted"
    assert found["sha256"] in profile.stamp.source
    assert any("no score may count that run" in text for text in profile.notes)
    assert any("not identified" in text and "elementwise" in text for text in profile.notes)
    before = base().table("qkv")
    after = profile.table("qkv")
    assert before is not None
    assert after is not None
    assert after.points[3][1] / before.points[3][1] == pytest.approx(terms["dense"]["value"])


def test_an_sglang_log_tells_of_decodes_only(
    tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [one for one in steps(150) if not one.prefills]
    lines = ["[2025-07-18 15:32:00 TP0] max_total_num_tokens=480000, chunked_prefill_size=8192"]
    for i, (one, took) in enumerate(zip(shapes, seconds(shapes, 0.002), strict=True)):
        if i % 10 == 0:
            lines.append("[2025 TP0] Prefill batch. #new-seq: 1, #new-token: 2192, #running-req: 0")
        lines.append(
            f"[2025-07-18 15:32:54 TP0] Decode batch. #running-req: {one.decodes}, #token: "
            f"{one.decode_context_tokens}, token usage: 0.10, cuda graph: True, gen throughput "
            f"(token/s): {one.decodes / took:.4f}, #queue-req: 0"
        )
    log = tmp_path / "sglang.log"
    log.write_text("\n".join(lines))
    found = fitted(log, scenario, tmp_path / "out", capsys)
    terms = {term["name"]: term for term in found["terms"]}
    assert found["timings"] == len(shapes) - 10  # those after a prefill are left out
    assert found["kv_blocks"] == 30_000
    assert terms["attention"]["value"] == pytest.approx(TRUTH["attention"], rel=0.05)
    assert not terms["mixed_step_s"]["identified"]
    assert any("nothing is known of prefill" in text for text in found["notes"])


def test_what_cannot_be_told_apart_is_not_split_at_random() -> None:
    work = np.random.default_rng(5).uniform(1, 10, 60)
    matrix = np.column_stack([work, 2 * work, np.ones(60)])
    found = identify(["dense", "attention", "step_s"], matrix, matrix @ [1.5, 1.0, 4.0])
    kept = [name for name, term in found.terms.items() if not term.identified]
    assert len(kept) == 1
    assert kept[0] in ("dense", "attention")
    assert found.condition_of_all > 1e6
    assert found.condition < 30
    assert abs(found.errors).max() < 1e-6


def test_outliers_do_not_decide() -> None:
    random = np.random.default_rng(6)
    matrix = np.column_stack([random.uniform(1, 10, 200), np.ones(200)])
    seconds_ = matrix @ np.array([1.2, 3.0])
    seconds_[:20] *= 4
    found = identify(["dense", "step_s"], matrix, seconds_)
    assert found.terms["dense"].value == pytest.approx(1.2, rel=0.03)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing to see here\n", "error"),
        (
            "Iteration(1): 0 context requests, 0 context tokens, 3 generation requests, 3 "
            "generation tokens, iteration elapsed time: 5.00 ms\n" * 5,
            "too few to fit to",
        ),
    ],
)
def test_logs_that_say_too_little(
    text: str, says: str, tmp_path: Path, scenario: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "short.log"
    log.write_text(text)
    words = ["calibrate", "fit", "--from", str(log), "--scenario", str(scenario), "-q"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_grid_of_scenarios_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", "fit", "--from", str(tmp_path), "--scenario", "agent_loop"]
    assert run([*words, "--out", str(tmp_path / "out")]) == 2
    assert "one cell and one pool" in capsys.readouterr().err
