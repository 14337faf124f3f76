"""The catalogues: every row loads, says where it is from, and counts up to what others state."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

import infersim.scenarios.catalog as package
from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.catalog.load import gpu, link, model, names
from infersim.sim.cost.specs import GpuSpec

FOLDER = Path(package.__file__).parent
SHARED = Path(__file__).parents[2].parent / "shared" / "reference" / "catalog"
ROWS = {k: yaml.safe_load((FOLDER / f"{k}s.yaml").read_text()) for k in ("gpu", "model", "link")}
LOADERS = {"gpu": gpu, "model": model, "link": link}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_load_and_state_their_source(kind: str) -> None:
    assert names(kind) == sorted(ROWS[kind])
    for name in names(kind):
        spec = LOADERS[kind](name)
        assert spec.name == name == name.lower()
        assert len(spec.source) > 3
        assert ROWS[kind][name]["confidence"] in ("high", "medium", "low")


@pytest.mark.parametrize("kind", ROWS)
def test_no_alias_means_two_things(kind: str) -> None:
    aliases = [a for row in ROWS[kind].values() for a in row.get("aliases", [])]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(ROWS[kind])


@pytest.mark.parametrize(
    ("alias", "name"),
    [("h100", "h100-sxm"), ("A100", "a100-sxm-80gb"), ("H200", "h200-sxm"), ("4090", "rtx-4090")],
)
def test_gpu_aliases(alias: str, name: str) -> None:
    assert gpu(alias).name == name


def test_hugging_face_names() -> None:
    assert model("meta-llama/Llama-3.1-8B-Instruct").name == "llama-3.1-8b"
    assert model("deepseek-ai/DeepSeek-V3").name == "deepseek-v3"


def count(r: dict) -> tuple[float, float]:
    """(total, active) parameters, written out per family from a raw row."""
    h, n, v = r["hidden"], r["layers"], r["vocab"]
    d, q, k = r["head_dim"], r["heads"], r["kv_heads"]
    embedding = v * h * (1 if r.get("tie_embed") else 2)
    if "kv_lora" in r:
        ql, c, nope, rope, val = (
            r[x] for x in ("q_lora", "kv_lora", "qk_nope", "qk_rope", "v_head")
        )
        attention = h * ql + ql * q * (nope + rope) + h * (c + rope) + c * q * (nope + val)
        attention += q * val * h + ql + c
        if "index_heads" in r:
            i, j = r["index_heads"], r["index_head_dim"]
            attention += ql * i * j + h * j + h * i + 2 * j
    else:
        attention = h * q * d + 2 * h * k * d + q * d * h
        attention += (q + 2 * k) * d if r.get("attn_bias") else 0
        attention += 2 * d if r.get("qk_norm") else 0
    total = embedding + n * (attention + 2 * h) + h
    if "experts" not in r:
        total += n * 3 * h * r["ffn"]
        return total, total
    first, e, w = r.get("first_dense_layers", 0), r["experts"], r["moe_ffn"]
    total += first * 3 * h * r.get("ffn", 0)
    always = h * e + r.get("shared_experts", 0) * 3 * h * w
    total += (n - first) * always
    expert = 3 * h * w * (n - first)
    return total + e * expert, total + r["top_k"] * expert


@pytest.mark.parametrize("name", ROWS["model"])
def test_parameters_are_those_of_the_dimensions_and_those_others_state(name: str) -> None:
    row, spec = ROWS["model"][name], model(name)
    total, active = count(row)
    assert (spec.parameters, spec.active_parameters) == (total, active)
    # GLM-5 was stated without its indexer, 0.73 billion
    slack = 0.74 if "index_heads" in row else 0.006
    assert spec.parameters / 1e9 == pytest.approx(row["parameters_b"], abs=slack)
    assert spec.active_parameters / 1e9 == pytest.approx(row["active_b"], abs=slack)


@pytest.mark.parametrize("name", ROWS["model"])
def test_kv_bytes_of_a_token(name: str) -> None:
    row, spec = ROWS["model"][name], model(name)
    if "kv_lora" in row:
        stated = row["layers"] * (row["kv_lora"] + row["qk_rope"]) * 2
        indexer = row["layers"] * (128 + 4) if "index_heads" in row else 0
    else:
        stated = row["layers"] * 2 * row["kv_heads"] * row["head_dim"] * 2
        indexer = 0
    assert stated == row["kv_bytes_per_token"]
    assert spec.kv_bytes_per_token() == stated + indexer


def test_known_totals() -> None:
    assert model("llama-3.1-8b").parameters == 8_030_261_248
    assert round(model("llama-3.1-70b").parameters / 1e9, 2) == 70.55
    assert round(model("qwen3-30b-a3b").active_parameters / 1e9, 2) == 3.35
    # the vision towers make up what the names leave out: 8.29, 8.29 and 8.77 billion in all
    for name, total in (("qwen2-vl-7b", 8.29), ("qwen2.5-vl-7b", 8.29), ("qwen3-vl-8b", 8.77)):
        spec = model(name)
        assert (spec.parameters + spec.vision_parameters) / 1e9 == pytest.approx(total, abs=0.006)


@pytest.mark.parametrize("name", ROWS["gpu"])
def test_gpus_are_plausible(name: str) -> None:
    spec: GpuSpec = gpu(name)
    assert 0.9 < spec.memory_bytes / (spec.memory_gb * 1e9) <= 1.075  # a GiB is 1.074 GB
    ridge = spec.bf16_flops / spec.memory_bytes_per_s
    assert 30 < ridge < 450
    # consumer parts halve bf16 with fp32 accumulation, so their INT8 is four times it
    for wider, most in ((spec.fp8_flops, 2), (spec.int8_ops, 4)):
        assert wider == 0 or 1.9 < wider / spec.bf16_flops < 1.03 * most
    if spec.measured_copy_bytes_per_s:
        assert spec.measured_copy_bytes_per_s < spec.memory_bytes_per_s
        assert spec.measured_bf16_flops < spec.bf16_flops


@pytest.mark.parametrize(
    ("kind", "typed", "nearest"),
    [
        ("gpu", "h10", "h100"),
        ("model", "lama-3.1-8b", "llama-3.1-8b"),
        ("link", "nvlnk4", "nvlink4"),
    ],
)
def test_unknown_names_give_the_nearest(kind: str, typed: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f'did you mean "{nearest}"'):
        LOADERS[kind](typed)


def test_unknown_catalogue() -> None:
    with pytest.raises(UnknownNameError, match='unknown catalogue "gpus"'):
        names("gpus")


def test_reference_rows_are_all_carried_over() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared reference catalogue is not here")
    with (SHARED / "models.csv").open() as file:
        for row in csv.DictReader(file):
            spec = model(row["name"].removesuffix(" (text)"))
            assert (spec.hidden, spec.layers) == (int(row["hidden"]), int(row["layers"]))
            assert spec.vocab == int(row["vocab"])
            assert spec.max_pos == int(row["max_pos"])
    with (SHARED / "gpus.csv").open() as file:
        bandwidths = sorted(float(r["hbm_GBps"]) for r in csv.DictReader(file))
    ours = [gpu(n).memory_bytes_per_s / 1e9 for n in names("gpu")]
    for bandwidth in bandwidths:
        assert any(abs(bandwidth - o) < 1 for o in ours)


GOOD_GPU = """\
name: tiny
bf16_tflops: 10
memory_gib: 8
memory_gbytes_per_s: 100
scaleup_gbytes_per_s: 16
pcie_gbytes_per_s: 16
nic_gbytes_per_s: 1.25
"""


def test_user_gpu_file(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD_GPU)
    spec = gpu("my.yaml", tmp_path)
    assert (spec.name, spec.memory_bytes, spec.bf16_flops) == ("tiny", 8 * 2**30, 1e13)
    assert spec.confidence == "low"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("bf16_tflops", "bf16_tflop"), r'unknown key "bf16_tflop"[\s\S]*my.yaml:2.*bf16_tflop"?'),
        (
            ("memory_gib: 8", "memory_gib: many"),
            r"must be a number, found 'many'[\s\S]*yaml:3",
        ),
        (("memory_gib: 8", "memory_gib: -8"), "memory_gib must be a finite number, not negative"),
        (("memory_gib: 8", "memory_gib: 0"), "memory_gib must be above 0"),
        (("memory_gib: 8", "memory_gib: true"), "memory_gib must be a number, found True"),
        (("memory_gib: 8", "tdp_w: 8"), "missing key memory_gib"),
        (("memory_gib: 8", "bf16_tflops: 8"), r"bf16_tflops is given twice[\s\S]*my.yaml:3"),
        (("name: tiny", "name: 7"), "name must be text, found 7"),
        (("name: tiny", "name: [tiny"), r"not YAML[\s\S]*my.yaml:2"),
        (("name: tiny", "confidence: hgh"), 'did you mean "high"'),
    ],
)
def test_broken_gpu_files(tmp_path: Path, edit: tuple[str, str], says: str) -> None:
    (tmp_path / "my.yaml").write_text(GOOD_GPU.replace(*edit))
    with pytest.raises(InputError, match=says):
        gpu("my.yaml", tmp_path)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read link file none\.yaml"):
        link("none.yaml", tmp_path)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(InputError, match="a mapping of keys to values"):
        link("empty.yaml", tmp_path)


def test_user_link_file(tmp_path: Path) -> None:
    (tmp_path / "wire.yml").write_text("latency_us: 2\ngbytes_per_s: 10\n")
    spec = link("wire.yml", tmp_path)
    assert (spec.name, spec.latency_s, spec.bandwidth_bytes_per_s) == ("wire", 2e-6, 1e10)


MODEL = {
    "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "vocab": 100, "max_pos": 128, "ffn": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"vision": {"layers": 2, "hidden": 8, "heads": 2, "ffn": 16}}, ""),
        ({"vision": 3}, "vision must be a section of keys"),
        (
            {"vision": {"layers": 2, "hidden": 8, "heads": 2, "fnn": 16}},
            r'key "fnn"[\s\S]*vision.fnn',
        ),
        *(
            ({"vision": {"layers": 4, "hidden": 8, "heads": 2, "ffn": 16, **wrong}}, says)
            for wrong, says in (
                ({"window": 4, "full_layers": 2}, ""),
                ({"window": 3}, "multiple of merge"),
                ({"full_layers": 2}, "there is no window"),
                ({"window": 4, "full_layers": 3}, "multiple of full_layers"),
                ({"heads": 3}, "multiple of heads"),
                ({"merge": 0}, "must be at least 1"),
            )
        ),
        ({"kv_heads": 3}, "multiple of kv_heads"),
        ({"experts": 4}, "needs moe_ffn"),
        ({"top_k": 2}, "need experts"),
        ({"ffn": 0}, "layers are dense"),
        ({"sliding_window": 8}, "go together"),
        ({"kv_lora": 8}, "latent attention needs"),
        ({"q_lora": 8}, "latent attention needs"),
        ({"index_top_k": 8}, "indexer needs"),
        ({"tie_embed": "yes please"}, "true or false"),
        ({"native_dtype": "bf61"}, 'did you mean "bf16"'),
        ({"parameters_b": 8.03}, r"dimensions give 0\.00 billion"),
        ({"layers": 2.5}, "layers must be a whole number"),
    ],
)
def test_user_models(tmp_path: Path, change: dict, says: str) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(MODEL | change))
    if not says:
        assert model("m.yaml", tmp_path).layers == 2
        return
    with pytest.raises(InputError, match=says):
        model("m.yaml", tmp_path)
