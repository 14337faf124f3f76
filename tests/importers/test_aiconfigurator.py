"""Hand-made parquet tables in aiconfigurator's columns, of an invented GPU-like truth."""

import shutil
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from infersim.calibrate.importers.aiconfigurator import all_reduce, read
from infersim.calibrate.importers.aiconfigurator_tables import Tables
from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.profile import load, save

SHARED = Path(__file__).parents[2].parent / "shared/reference/measured/kernels/aiconfigurator"
BASE = {"framework": "VLLM", "version": "0.24.0", "device": "NVIDIA H100 80GB HBM3"}


def gemm_ms(m, n, k):
    return 1e3 * (4e-6 + max(2 * m * n * k / 7e14, 2 * (m * n + n * k + m * k) / 2.6e12))


def gemm_rows(dtype="bfloat16"):
    # qwen3-0.6b at tp 1: qkv 4096 x 1024, o 1024 x 2048, gate_up 6144 x 1024, down 1024 x 3072
    shapes = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (65536, 1024), (2048, 1024)]
    for (n, k), m in product(shapes, (1, 16, 64, 128, 129, 512, 2048, 8192)):
        yield {**BASE, "gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": gemm_ms(m, n, k)}


def attention_rows(steps, isls):
    for batch, step, isl, (heads, kv) in product((1, 8, 64), steps, isls, ((16, 8), (8, 4))):
        tokens = batch * (step + isl)
        ms = 1e3 * (1e-5 + tokens * kv * 512 / 2.8e12 + batch * heads * isl**2 * 512 / 6e14)
        yield {
            **BASE, "batch_size": batch, "isl": isl, "step": step, "num_heads": heads,
            "num_key_value_heads": kv, "head_dim": 128, "window_size": 0,
            "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "latency": ms,
        }  # fmt: skip


def nccl_rows():
    for gpus, size, twice in product((2, 4), (256, 65536, 16_777_216), (0, 1)):
        yield {
            **BASE, "op_name": "all_reduce", "nccl_dtype": "half", "num_gpus": gpus,
            "message_size": size, "latency": 0.008 + size * 2 / 3e11 * 1e3 + 0.001 * twice,
        }  # fmt: skip


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(rows)).to_parquet(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The layout of the package: system/family/engine/version/table. Not to be changed."""
    folder = tmp_path_factory.mktemp("aiconfigurator") / "data"
    root = folder / "h100_sxm"
    write(root / "gemm/vllm/0.24.0/gemm_perf.parquet", gemm_rows())
    attention = root / "attention/vllm/0.24.0"
    write(attention / "generation_attention_perf.parquet", attention_rows((0, 127, 4095), (1,)))
    write(attention / "context_attention_perf.parquet", attention_rows((0,), (16, 128, 2048)))
    write(root / "comm/nccl/2.27.3/nccl_perf.parquet", nccl_rows())
    return folder


@pytest.fixture
def own(tree, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(tree, tmp_path / "data")


@pytest.fixture(scope="module")
def profile(tree):
    return read(tree, model="qwen3-0.6b", gpu="h100")


@pytest.fixture(scope="module")
def split(tree):
    return read(tree, model="qwen3-0.6b", gpu="h100", tp=2)


def test_a_profile_has_the_measured_points_in_seconds_and_names_what_is_missing(profile, tmp_path):
    qkv = profile.table("qkv")
    assert dict(qkv.points)[129] == pytest.approx(gemm_ms(129, 4096, 1024) / 1e3)
    assert qkv.grades[[p[0] for p in qkv.points].index(129)] == "measured"
    assert (qkv.times, profile.table("lm_head").times) == (28, 1)
    assert profile.table("lm_head").by == ("sequences",)
    assert (profile.attention, profile.dtype, profile.kv_dtype) == ("separate", "bf16", "bf16")
    assert profile.missing == ("sampler",)
    norm = profile.table("norm")
    assert (norm.times, set(norm.grades), norm.sigma) == (56, {"datasheet"}, 0.3)
    assert 2e-6 < dict(norm.points)[1] < 4e-6
    assert profile.stamp.device == BASE["device"]
    assert "gemm_perf" in profile.stamp.source
    assert profile.stamp.licence == "Apache-2.0"
    assert profile.graphs.sizes[:4] == (1, 2, 4, 8)
    save(profile, tmp_path / "out")
    assert load(tmp_path / "out") == profile


def test_the_step_of_decode_is_what_was_cached_before(profile):
    decode = profile.table("decode_attention")
    found = {point[:2]: point[2] for point in decode.points}
    assert found[8.0, 128.0] == pytest.approx(
        1e-5 + 8 * 128 * 8 * 512 / 2.8e12 + 8 * 16 * 512 / 6e14
    )


def test_a_prefix_was_never_measured_and_is_graded_so(profile):
    prefill = profile.table("prefill_attention")
    grades = {point[:2]: g for point, g in zip(prefill.points, prefill.grades, strict=True)}
    assert grades[128.0, 0.0] == "measured"
    assert grades[128.0, 128.0] == "extrapolated"
    times = {point[:2]: point[2] for point in prefill.points}
    assert times[2048.0, 4096.0] > times[2048.0, 0.0]


def test_heads_are_those_of_one_gpu_and_messages_count_elements(split):
    reduce = split.table("all_reduce")
    assert (reduce.by, reduce.times) == (("bytes",), 56)
    found = dict(reduce.points)
    assert found[131072.0] == pytest.approx(8.5e-6 + 131072 / 3e11)  # the median of both rows
    decode = {p[:2]: p[2] for p in split.table("decode_attention").points}
    assert decode[8.0, 128.0] == pytest.approx(
        1e-5 + 8 * 128 * 4 * 512 / 2.8e12 + 8 * 8 * 512 / 6e14
    )


def test_a_system_is_found_by_any_name_that_the_catalogue_has_for_it(own):
    (own / "h100_sxm").rename(own / "rtx_pro_6000_server")
    found = read(own, model="qwen3-0.6b", gpu="rtx-pro-6000")
    assert found.stamp.gpu == "rtx-pro-6000"
    assert "measured" in found.table("qkv").grades


def test_attention_tables_from_before_windows_have_none(own):
    path = own / "h100_sxm/attention/vllm/0.24.0/generation_attention_perf.parquet"
    before = Tables(own, "h100_sxm").decode("bfloat16", 128)
    write(path, [{k: v for k, v in row.items() if k != "window_size"} for row in
                 attention_rows((0, 127, 4095), (1,))])  # fmt: skip
    after = Tables(own, "h100_sxm").decode("bfloat16", 128)
    assert after.seconds.tolist() == before.seconds.tolist()


def test_all_reduces_alone(tree):
    found = all_reduce(tree, model("qwen3-0.6b"), gpu("h100"), 2)
    assert found.table == read(tree, model="qwen3-0.6b", gpu="h100", tp=2).table("all_reduce")
    assert found.label == "nccl 2.27.3, nccl_perf.parquet"
    with pytest.raises(InputError, match="no table for l40s"):
        all_reduce(tree, model("qwen3-0.6b"), gpu("l40s"), 2)


def test_a_folder_without_all_reduces_is_refused(own):
    shutil.rmtree(own / "h100_sxm/comm")
    with pytest.raises(InputError, match="no all-reduces for h100_sxm"):
        all_reduce(own, model("qwen3-0.6b"), gpu("h100"), 2)


def test_a_flat_folder_is_read_as_the_tree_is(own, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in own.rglob("*.parquet"):
        system, *rest, name = path.relative_to(own).parts
        path.rename(flat / f"{system}__{'_'.join(rest)}_{name}")
    assert Tables(flat, "h100_sxm").systems() == ["h100_sxm"]
    tables = Tables(flat, "h100_sxm")
    assert len(tables.gemm("bfloat16").seconds) == 48
    assert len(tables.decode("bfloat16", 128).seconds) == 18
    assert len(tables.prefill("bfloat16", 128).seconds) == 18
    assert len(tables.all_reduce().seconds) == 12


def test_another_system_stands_in_and_it_is_said(own):
    write(own / "h200_sxm/gemm/vllm/0.24.0/gemm_perf.parquet", gemm_rows())
    profile = read(own, model="qwen3-0.6b", gpu="h200", tp=2)
    assert profile.table("qkv").grades.count("measured") == 8
    reduce = profile.table("all_reduce")
    assert set(reduce.grades) == {"transferred"}
    assert reduce.sigma > 0.06
    assert any("all_reduce is carried over from h100-sxm" in note for note in profile.notes)


def test_the_newest_version_is_taken_unless_one_is_named(own):
    slow = [{**row, "latency": row["latency"] * 2} for row in gemm_rows()]
    write(own / "h100_sxm/gemm/vllm/0.9.1/gemm_perf.parquet", slow)
    tables = Tables(own, "h100_sxm")
    newest, old = (t.gemm("bfloat16") for t in (tables, Tables(own, "h100_sxm", version="0.9.1")))
    assert old.seconds.sum() == pytest.approx(2 * newest.seconds.sum())
    assert old.label.startswith("vllm 0.9.1")


def test_a_graphed_all_reduce_of_the_engine_comes_before_nccl(own):
    rows = [
        {**BASE, "num_gpus": 2, "message_size": 2**i, "backend": f"vllm_{mode}", "latency": ms}
        for i, (mode, ms) in product((8, 12, 20), (("graph", 0.004), ("eager", 0.02)))
    ]
    write(own / "h100_sxm/comm/vllm/0.24.0/custom_allreduce_perf.parquet", rows)
    assert Tables(own, "h100_sxm").all_reduce().seconds.max() == pytest.approx(4e-6)


def test_experts_come_with_their_routing(own):
    rows = [
        {
            **BASE, "moe_dtype": "bfloat16", "num_tokens": t, "hidden_size": 2048,
            "inter_size": 768, "topk": 8, "num_experts": 128, "moe_tp_size": 1, "moe_ep_size": 1,
            "distribution": d, "latency": 0.05 + t / 5000,
        }
        for t, d in product((1, 8, 64, 512, 4096), ("balanced", "power_law_1.2"))
    ]  # fmt: skip
    write(own / "h100_sxm/moe/vllm/0.24.0/moe_perf.parquet", rows)
    points = Tables(own, "h100_sxm").moe("bfloat16")
    assert sorted(set(points.columns["skew"])) == [0.0, 1.2]
    assert points.seconds[0] == pytest.approx(5.02e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gpu": "b200"}, "no table for b200-sxm"),
        ({"engine": "vlm"}, 'did you mean "vllm"'),
        ({"version": "0.1"}, "no gemm table of vllm 0.1"),
        ({"dtype": "fp8"}, "no row with gemm_dtype fp8"),
        ({"dtype": "int4"}, "no dense products in int4"),
        ({"kv_dtype": "fp8"}, "no row with kv_cache_dtype fp8"),
        ({"model": "deepseek-v3"}, "latent attention"),
        ({"model": "gpt-oss-20b"}, "sliding windows"),
        ({"model": "qwen3-8b", "tp": 3}, "cannot be split over tp 3"),
        ({"tp": 2, "ep": 3}, "ep 3 does not divide"),
    ],
)
def test_what_the_tables_do_not_hold_is_refused(tree, changes, says):
    with pytest.raises(InputError) as caught:
        read(tree, **{"model": "qwen3-0.6b", "gpu": "h100", **changes})
    assert says in str(caught.value)


def test_damaged_tables_are_refused_with_their_file(own):
    path = own / "h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
    write(path, [{**row, "latency": 0.0} for row in gemm_rows()])
    with pytest.raises(InputError, match="latency is not above 0"):
        Tables(own, "h100_sxm").gemm("bfloat16")
    write(path, [{k: v for k, v in row.items() if k != "n"} for row in gemm_rows()])
    with pytest.raises(InputError, match="no column n; found"):
        Tables(own, "h100_sxm").gemm("bfloat16")
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="cannot be read") as caught:
        Tables(own, "h100_sxm").gemm("bfloat16")
    assert str(path.name) in str(caught.value)
    with pytest.raises(InputError, match="no folder"):
        read(own / "nowhere", model="qwen3-0.6b", gpu="h100")
    with pytest.raises(UnknownNameError):
        read(own, model="qwen3-0.7b", gpu="h100")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published tables are not here")
def test_points_of_the_published_tables():
    tables = Tables(SHARED, "h100_sxm")
    assert tables.systems() == ["h100_sxm", "h200_sxm"]
    counts = {
        "gemm": (tables.gemm("bfloat16"), 35_742),
        "decode": (tables.decode("bfloat16", 128), 6_770),
        "prefill": (tables.prefill("bfloat16", 128), 5_763),
        "all_reduce": (tables.all_reduce(), 126),
    }
    assert {name: len(points.seconds) for name, (points, _) in counts.items()} == {
        name: count for name, (_, count) in counts.items()
    }
    assert Tables(SHARED, "h200_sxm").moe("bfloat16") is None
