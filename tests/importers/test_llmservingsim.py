"""LLMServingSim's bundles: units, launches, faults, and the published ones where they are."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from statistics import median

import pandas as pd
import pytest

from infersim.calibrate.importers import llmservingsim
from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.profile import load, save
from infersim.sim.cost.specs import Parallelism
from infersim.sim.cost.tables import TableCost
from infersim.sim.cost.uneven import Alphas

BUNDLES = Path(__file__).parents[2].parent / "shared" / "reference" / "measured" / "kernels"
LAYERS = [
    "embedding",
    "layernorm",
    "qkv_proj",
    "rotary_emb",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
]

META = """
model: meta-llama/Llama-3.1-8B
hardware: RTX4090
gpu: NVIDIA GeForce RTX 4090
vllm_version: 0.19.0
cuda_version: '12.8'
profiled_at: '2026-08-17T19:43:32+00:00'
variant: bf16
measurement_iterations: 3
skew_fit: {enabled: false}
"""


def bundle(folder: Path, tp: int = 1, **files: str) -> Path:
    (folder / f"tp{tp}").mkdir(parents=True)
    dense = "layer,tokens,time_us\n" + "".join(f"{x},1,2.5\n{x},2048,100\n" for x in LAYERS)
    texts = {
        "dense": dense + "final_layernorm,1,2\nfinal_layernorm,2048,3\n",
        "per_sequence": "layer,sequences,time_us\nlm_head,1,1000\nsampler,1,25\n",
        "attention": "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
        "0,0,1,16,9\n16,0,0,0,10\n16,0,1,16,11\n",
    }
    for name, text in (texts | files).items():
        with gzip.open(folder / f"tp{tp}" / f"{name}.csv.gz", "wt") as file:
            file.write(text)
    (folder / "meta.yaml").write_text(META)
    return folder


def test_units_and_launches(tmp_path: Path) -> None:
    found = llmservingsim.read(bundle(tmp_path))
    tables = {table.op: table for table in found.tables}
    launches = {op: table.times for op, table in tables.items()}
    assert launches == {
        "embedding": 1,
        "norm": 64,
        "final_norm": 1,
        **dict.fromkeys(("qkv", "rope", "o", "gate_up", "act", "down", "attention"), 32),
        "lm_head": 1,
        "sampler": 1,
    }
    assert tables["qkv"].points == ((1.0, 2.5e-6), (2048.0, 1e-4))
    assert tables["lm_head"].by == ("sequences",)
    assert (found.attention, found.model, found.stamp.gpu) == ("mixed", "llama-3.1-8b", "rtx-4090")
    assert found.stamp.engine == "vllm 0.19.0"
    assert found.stamp.licence == "MIT"
    assert found.missing == ()
    save(found, tmp_path / "profile")
    assert load(tmp_path / "profile") == found


HEAD = "regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha\n"
ROWS = """mixed,2,1,0.5,4,16,0,128,512,320,50,60,52,0.2
mixed,4,1,0.25,4,16,0,128,512,224,50,100,51,0.02
pure,2,1,0.5,4,0,0,128,512,320,20,30,25,0.5
pure,2,1,0.5,4,0,0,128,512,320,20,30,,
"""


def test_uneven_contexts_are_applied_where_the_bundle_enables_it(tmp_path: Path) -> None:
    made = bundle(tmp_path, skew=HEAD + ROWS)
    off = llmservingsim.read(made)
    assert off.uneven is None
    assert any("4.0% longer" in note and "not applied" in note for note in off.notes)
    (made / "meta.yaml").write_text(META.replace("enabled: false", "enabled: true"))
    on = llmservingsim.read(made)
    assert any("applied" in note and "not applied" not in note for note in on.notes)
    assert on.uneven is not None
    # sequences 2 and 4; a half and a quarter of the way from the shortest to the longest
    assert on.uneven.alphas == (
        (0, 0, 3, 0, 0, 0.5),
        (16, 0, 3, 0, 0, 0.2),
        (16, 1, 2, 0, 0, 0.02),
    )
    # least squares of all: (10 * 2 + 50 * 1 + 10 * 5) / (100 + 2500 + 100)
    assert on.uneven.default == 0.0444
    assert llmservingsim.read(made, uneven=False).uneven is None
    save(on, tmp_path / "profile")
    assert load(tmp_path / "profile") == on


def test_a_correction_without_its_sweep_or_its_buckets_is_refused(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bare")
    (made / "meta.yaml").write_text(META.replace("enabled: false", "enabled: true"))
    with pytest.raises(InputError, match="tp1 has no sweep"):
        llmservingsim.read(made)
    made = bundle(tmp_path / "odd", skew=HEAD + ROWS)
    axes = "enabled: true, bucket_axes: {n_bins: [2, 1]}"
    (made / "meta.yaml").write_text(META.replace("enabled: false", axes))
    with pytest.raises(InputError, match="n_bins"):
        llmservingsim.read(made)


@pytest.mark.skipif(not BUNDLES.is_dir(), reason="needs the measured tables in shared/")
@pytest.mark.parametrize(
    ("name", "tp", "default", "median_error"),
    [
        ("rtxpro6000_meta-llama_llama-3.1-8b", 1, 0.0543, 0.0118),
        ("rtxpro6000_meta-llama_llama-3.1-8b", 2, 0.0654, 0.0113),
        ("rtxpro6000_qwen_qwen3-32b", 2, 0.0649, 0.0121),
    ],
)
def test_the_correction_is_the_one_that_the_bundle_states(
    name: str, tp: int, default: float, median_error: float
) -> None:
    """Its metadata gives the alpha of all batches, and how well the buckets foretell its sweep."""
    found = llmservingsim.read(BUNDLES / name, tp=tp).uneven
    assert found is not None
    assert found.default == default
    alphas, errors = Alphas(found), []
    with gzip.open(BUNDLES / name / f"tp{tp}" / "skew.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if not row["alpha"]:
                continue
            n, chunk, before, low, high = (int(row[k]) for k in ("n", "pc", "kp", "kvs", "kv_big"))
            total = n * int(row["kv_mean"])
            mean, most, true = (float(row[k]) for k in ("t_mean_us", "t_max_us", "t_skew_us"))
            if chunk:
                alpha = alphas.mixed(chunk, before, n, total, (low, high))
            else:
                alpha = alphas.pure(n, total, (low, high))
            errors.append(abs(mean + alpha * (most - mean) - true) / true)
    assert median(errors) == pytest.approx(median_error, abs=5e-5)


def test_collectives_are_named_as_missing(tmp_path: Path) -> None:
    found = llmservingsim.read(bundle(tmp_path, tp=2), tp=2)
    assert found.missing == ("all_reduce",)
    assert any("collectives" in note for note in found.notes)


def test_collectives_come_from_aiconfigurators_tables(tmp_path: Path) -> None:
    folder = tmp_path / "data/rtx_4090/comm/vllm/0.19.0"
    folder.mkdir(parents=True)
    rows = [
        {"num_gpus": 2, "message_size": size, "latency": 0.01 + size / 1e7, "backend": backend}
        for size in (1024, 65_536, 4_194_304, 16_777_216)
        for backend in ("vllm_graph", "vllm_eager")
    ]
    pd.DataFrame(rows).to_parquet(folder / "custom_allreduce_perf.parquet")
    source = bundle(tmp_path / "bundle", tp=2)
    found = llmservingsim.read(source, tp=2, collectives=tmp_path / "data", version="0.19.0")
    reduces = found.table("all_reduce")
    assert reduces is not None
    assert (reduces.by, reduces.times) == (("bytes",), 64)
    assert dict(reduces.points)[131_072.0] == pytest.approx(1e-5 + 65_536 / 1e10)
    assert found.missing == ()
    assert "vllm 0.19.0, custom_allreduce_perf.parquet" in found.notes[-1]
    assert found.stamp.licence == "MIT; all-reduces Apache-2.0"
    with pytest.raises(InputError, match="a single GPU reduces nothing"):
        llmservingsim.read(bundle(tmp_path / "one"), collectives=tmp_path / "data")
    with pytest.raises(InputError, match="that of the collectives"):
        llmservingsim.read(source, tp=2, version="0.19.0")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"dense": "layer,tokens,time_us\nqkv,1,2\n"}, 'unknown layer "qkv"'),
        ({"dense": "layer,tokens\nqkv_proj,1\n"}, "expected layer, tokens, time_us"),
        ({"dense": "layer,tokens,time_us\nqkv_proj,1\n"}, "3 values expected"),
        ({"dense": "layer,tokens,time_us\nqkv_proj,one,2\n"}, "a number is expected"),
    ],
)
def test_faulty_files(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        llmservingsim.read(bundle(tmp_path, **files))


def test_faulty_bundles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no meta\.yaml"):
        llmservingsim.read(tmp_path)
    made = bundle(tmp_path)
    with pytest.raises(InputError, match="no tables for tp 4"):
        llmservingsim.read(made, tp=4)
    with pytest.raises(UnknownNameError):
        llmservingsim.read(made, gpu="rtx-4091")
    path = made / "tp1" / "attention.csv.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read"):
        llmservingsim.read(made)
    path.unlink()
    with pytest.raises(InputError, match="lacks the file"):
        llmservingsim.read(made)


@pytest.mark.parametrize(
    ("name", "tp", "missing", "step_ms"),
    [
        ("rtx4090_meta-llama_llama-3.1-8b", 1, (), (22, 27)),
        ("rtxpro6000_meta-llama_llama-3.1-8b", 1, (), (14, 18)),
        ("rtxpro6000_qwen_qwen3-32b", 2, ("all_reduce",), (28, 36)),
        ("rtxpro6000_qwen_qwen3-30b-a3b-instruct-2507", 1, (), (30, 50)),
    ],
)
def test_published_bundles(
    name: str, tp: int, missing: tuple[str, ...], step_ms: tuple[float, float]
) -> None:
    if not (BUNDLES / name).is_dir():
        pytest.skip("the published tables are not on this machine")
    found = llmservingsim.read(BUNDLES / name, tp=tp)
    assert found.missing == missing
    spec, card = model(found.model), gpu(found.stamp.gpu)
    cost = TableCost(found, spec, card, Parallelism(tp))
    low, high = step_ms
    assert low < cost.duration_ps(StepShape(32, 32 * 1000, (), 32)) / 1e9 < high
    mixed = cost.predict(StepShape(100, 100 * 400, ((300, 0), (17, 128)), 102))
    assert mixed.parts["attention"].grade == "interpolated"
    # the weights alone take this long to read
    weights_s = spec.weight_bytes(tp=tp) / card.memory_bytes_per_s
    if not spec.experts:
        assert cost.duration_ps(StepShape(1, 16, (), 1)) / 1e12 > weights_s
