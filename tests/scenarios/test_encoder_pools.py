"""Pools that encode images, and phases of load, as scenarios say them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infersim.policies.errors import InputError
from infersim.scenarios import build, grid, load
from infersim.sim.cost.specs import VisionSpec
from infersim.sim.cost.vision import embedding_bytes_per_token
from infersim.sim.state.records import CellRecords

ENCODE = "name: e, role: encode, gpu: h100-sxm, model: qwen2-vl-7b"
SERVE = "{name: s, gpu: h100-sxm, model: qwen2-vl-7b}"


def simulated(source: load.Source, name: str) -> CellRecords:
    cell = next(cell for cell in grid.cells(source)[1] if cell.name == name)
    made = build.simulate_cell(cell, source.folders, leap=True, progress=lambda *_: None)
    return made.records


def assembled(file: str) -> None:
    source = load.read(file)
    for cell in grid.cells(source)[1]:
        build.assemble(cell, source.folders)


def encode(keys: str) -> str:
    """Two pools, the first with these keys."""
    return "[{" + keys + "}, " + SERVE + "]"


def write(tmp_path: Path, **changes: str) -> str:
    parts = {
        "pools": encode(ENCODE),
        "links": "{embeddings: nvlink4}",
        "policies": "{}",
    } | changes
    (tmp_path / "s.yaml").write_text(
        f"""name: s
cluster: {{pools: {parts["pools"]}}}
links: {parts["links"]}
policies: {parts["policies"]}
workload:
  {{kind: open-loop, requests: 6, arrivals: 5, images: {{count: 9, tokens: 700}}, output_tokens: 4}}
"""
    )
    return str(tmp_path / "s.yaml")


def test_bytes_are_tokens_times_the_width_of_the_model(tmp_path: Path) -> None:
    source = load.read(write(tmp_path))
    (cell,) = grid.cells(source)[1]
    records = simulated(source, cell.name)
    sent = records.requests["embedding_bytes"]
    assert set(sent.tolist()) <= {0, 700 * 3584 * 2}
    assert records.totals["embedding_link_bytes"] == sent.sum() > 0
    assert records.totals["replicas"] == 2
    assert (records.requests["status"] == "finished").all()
    row = records.capacity[0]
    assert "kv_blocks" not in row
    room = row["budget_bytes"] - sum(
        row[f"{name}_bytes"] for name in ("weights", "activation_peak", "non_torch")
    )
    assert row["encoder_cache_tokens"] == room // (3584 * 2)


def test_deepstack_has_an_embedding_for_each_projection() -> None:
    spec: Any = type("Model", (), {"hidden": 4096, "vision": VisionSpec(27, 1152, 16, 4304)})
    assert embedding_bytes_per_token(spec) == 4096 * 2
    spec.vision = VisionSpec(27, 1152, 16, 4304, mergers=4)
    assert embedding_bytes_per_token(spec) == 4 * 4096 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"links": "{}"}, "encoders need a link for the embeddings"),
        ({"pools": "[{" + ENCODE + "}]"}, "nobody computes prompts"),
        ({"policies": "{disaggregation: colocated}"}, "colocated sends no images there"),
        *(
            ({"policies": f"{{disaggregation: {{name: encoder-split, {given}}}}}"}, message)
            for given, message in (
                ("prompts: encoder-split", "prompts: encoder-split places images again"),
                ("prompts: conditionall", 'did you mean "conditional"'),
                ("prompts: {name: conditional, overlap: layers}", "needs transfer: push"),
                ("prompts: {name: conditional, max_locl: 9}", r"max_locl[\s\S]*prompts.max_locl"),
                ("prompts: {name: conditional, max_local_tokens: some}", "max_local_tokens"),
                ("prompts: {name: static-split}, in_flight: 3", "its policy says how KV travels"),
                ("prompts: 3", "names no disaggregation policy"),
            )
        ),
        ({"pools": encode(ENCODE + ", kv_blocks: 9")}, "kv_blocks would do nothing"),
        ({"pools": encode(ENCODE + ", pp: 2")}, "pp would do nothing"),
        (
            {"pools": encode(ENCODE + ", engine: {max_num_seqs: 9}")},
            "engine.max_num_seqs would do nothing",
        ),
        (
            {"pools": encode(ENCODE + ", engine: sglang")},
            "an encode pool has the engine vllm-v1, found sglang",
        ),
        (
            {"pools": encode(ENCODE.replace("qwen2-vl-7b", "llama-3.1-8b"))},
            "has no vision tower, so there is nothing to encode",
        ),
        (
            {"pools": encode(ENCODE.replace("qwen2-", "qwen2.5-"))},
            "no pool serves qwen2.5-vl-7b",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, ValueError), match=message):
        assembled(write(tmp_path, **changes))


def test_prompts_have_a_policy_of_their_own(tmp_path: Path) -> None:
    """It is read, built, and written back as it was said."""
    roles = ", ".join(
        f"{{name: {role}, role: {role}, gpu: h100-sxm, model: qwen2-vl-7b}}"
        for role in ("prefill", "decode")
    )
    within = "{name: conditional, max_local_tokens: 900}"
    path = write(
        tmp_path,
        pools=f"[{{{ENCODE}}}, {roles}]",
        links="{embeddings: nvlink4, kv: nvlink4}",
        policies=f"{{disaggregation: {{name: encoder-split, prompts: {within}}}}}",
    )
    (cell,) = grid.cells(load.read(path))[1]
    policy = cell.scenario.policies.disaggregation
    assert policy is not None
    assert policy.build().prompts.max_local_tokens == 900
    said = cell.scenario.resolved()["policies"]["disaggregation"]
    assert said["prompts"]["name"] == "conditional"
    assert said["prompts"]["max_local_tokens"] == 900
    rows = simulated(load.read(path), cell.name).requests
    assert (rows["embedding_bytes"] > 0).any()


# ---- the shipped ones ---------------------------------------------------------------------------


def met(records: CellRecords) -> float:
    """Share of the requests that meet every SLO."""
    rows, slo = records.requests, records.slo
    first = (rows["first_token_ps"] - rows["arrival_ps"]) / 1e12
    gaps = np.maximum(rows["output_tokens"] - 1, 1)
    each = (rows["finish_ps"] - rows["first_token_ps"]) / 1e12 / gaps
    return float(((first <= slo["ttft_s"]) & (each <= slo["tpot_s"])).mean())


def test_encoders_of_their_own_help_with_many_images() -> None:
    source = load.read("encoder_split", ["limits.requests=150"])
    together, apart = (
        simulated(source, name) for name in ("images, together", "images, 2 encoders")
    )
    assert apart.itl.quantile_s(0.99) < 0.4 * together.itl.quantile_s(0.99)
    assert met(apart) > met(together)


def test_encoders_stand_idle_with_few_images() -> None:
    source = load.read("encoder_split", ["limits.requests=300"])
    together, apart = (simulated(source, name) for name in ("text, together", "text, 2 encoders"))
    assert apart.itl.mean_s() > 1.25 * together.itl.mean_s()


def test_changing_roles_follow_a_load_that_changes() -> None:
    """The shipped scenario, half as long."""
    short = [f"workload.phases.{i}.duration_s=30" for i in (0, 1)]
    source = load.read("role_switching", short)
    moving = simulated(source, "roles change")
    still = simulated(source, "2 prefill + 2 decode")
    assert moving.totals["role_switches"] >= 2
    assert met(moving) > met(still)
    prompts = moving.requests["prompt_tokens"]
    first = moving.requests["arrival_ps"] < 30 * 10**12
    assert np.median(prompts[first]) > 10_000
    assert np.median(prompts[~first]) < 400


def test_a_phase_needs_an_end(tmp_path: Path) -> None:
    text = Path(load.find("role_switching")).read_text().replace("      duration_s: 60\n", "", 1)
    (tmp_path / "p.yaml").write_text(
        text.replace("open-loop\n", "open-loop\n      requests: 9\n", 1)
    )
    with pytest.raises(InputError, match="a phase needs duration_s"):
        assembled(str(tmp_path / "p.yaml"))
