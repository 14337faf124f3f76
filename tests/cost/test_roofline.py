"""The roofline and the linear stub: exact decode lines, monotone, near measured tables."""

from __future__ import annotations

import csv
import gzip
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepCost, StepShape
from infersim.sim.cost.linear import LinearCost
from infersim.sim.cost.overheads import Overheads
from infersim.sim.cost.roofline import UNBOUNDED, Roofline
from infersim.sim.cost.specs import Parallelism

SHARED = Path(__file__).parents[2].parent / "shared" / "reference" / "measured" / "kernels"

COSTS: dict[str, StepCost] = {
    "dense": Roofline(model("llama-3.1-8b"), gpu("h100")),
    "dense tp8": Roofline(model("llama-3.1-70b"), gpu("h100"), Parallelism(8)),
    "moe": Roofline(model("qwen3-30b-a3b"), gpu("a100"), kv_dtype="fp8"),
    "windows": Roofline(model("gpt-oss-120b"), gpu("h100"), Parallelism(2)),
    "latent": Roofline(model("deepseek-v3"), gpu("h200"), Parallelism(8, 2)),
    "sparse": Roofline(model("glm-5"), gpu("b300"), Parallelism(8)),
    "vision": Roofline(model("qwen2.5-vl-7b"), gpu("l40s")),
    "linear": LinearCost(1000, 7, 11, 3),
}
cost_names = st.sampled_from(sorted(COSTS))


def decode(n: int, context: int) -> StepShape:
    return StepShape(n, context, (), n)


@settings(max_examples=150, deadline=None)
@given(cost_names, st.integers(1, 512), st.integers(0, 10**7), st.integers(0, 10**6))
def test_decode_is_its_line_exactly(name: str, n: int, start: int, ahead: int) -> None:
    cost = COSTS[name]
    line = cost.decode_line(n, start)
    assert all(isinstance(value, int) for value in line[:3])
    assert start < line.until
    context = min(start + ahead, line.until - 1)
    expected = line.base_ps + line.slope_ps * context
    assert cost.duration_ps(decode(n, context)) == expected >= 1


@settings(max_examples=150, deadline=None)
@given(cost_names, st.integers(1, 512))
def test_lines_meet_where_they_break(name: str, n: int) -> None:
    cost = COSTS[name]
    line = cost.decode_line(n, 0)
    if line.until == UNBOUNDED:
        assert name not in ("windows", "sparse")
        return
    after = cost.decode_line(n, line.until)
    at = line.until
    assert line.base_ps + line.slope_ps * at == after.base_ps + after.slope_ps * at
    assert after.until == UNBOUNDED
    assert line.slope_ps > after.slope_ps
    assert at == n * (128 if name == "windows" else 2048)


@settings(max_examples=150, deadline=None)
@given(cost_names, st.integers(1, 300), st.integers(1, 10**6), st.integers(0, 300))
def test_rows_that_do_not_sample_save(name: str, n: int, context: int, samples: int) -> None:
    cost = COSTS[name]
    fewer = cost.duration_ps(StepShape(n, context, (), min(samples, n)))
    assert fewer <= cost.duration_ps(decode(n, context))


@settings(max_examples=100, deadline=None)
@given(cost_names, st.integers(1, 300), st.integers(0, 10**6), st.integers(0, 10**6))
def test_decodes_beside_a_prefill_read_as_much_as_alone(name: str, n: int, a: int, b: int) -> None:
    """The general formula and the line agree on what context costs, to the picosecond."""
    cost = COSTS[name]
    alone = cost.duration_ps(decode(n, b)) - cost.duration_ps(decode(n, a))
    beside = [cost.duration_ps(StepShape(n, c, ((512, 100),), n)) for c in (a, b)]
    assert beside[1] - beside[0] == alone


shapes = st.tuples(
    st.integers(0, 200),
    st.integers(0, 200_000),
    st.lists(st.tuples(st.integers(2, 4096), st.integers(0, 60_000)), max_size=4),
    st.integers(0, 200),
)


@settings(max_examples=200, deadline=None)
@given(cost_names, shapes, st.integers(0, 5), st.integers(0, 4096))
def test_more_is_never_cheaper(
    name: str,
    shape: tuple[int, int, list[tuple[int, int]], int],
    which: int,
    more: int,
) -> None:
    cost = COSTS[name]
    n, context, prefills, samples = shape
    before = StepShape(n, context, tuple(prefills), samples)
    grown = list(prefills) or [(2, 0)]
    new, old = grown[0]
    bigger = [
        StepShape(n + more, context, tuple(prefills), samples),
        StepShape(n, context + more, tuple(prefills), samples),
        StepShape(n, context, tuple(prefills), samples + more),
        StepShape(n, context, ((new + more, old), *grown[1:]), samples),
        StepShape(n, context, ((new, old + more), *grown[1:]), samples),
        StepShape(n, context, (*prefills, (2 + more, more)), samples),
    ][which]
    assert 1 <= cost.duration_ps(before) <= cost.duration_ps(bigger)


@settings(max_examples=150, deadline=None)
@given(
    cost_names,
    st.integers(0, 8192),
    st.integers(0, 100_000),
    st.integers(0, 999),
    st.integers(0, 999),
)
def test_prefill_is_monotone(name: str, tokens: int, context: int, a: int, b: int) -> None:
    cost = COSTS[name]
    one = cost.prefill_ps(tokens, context)
    assert isinstance(one, int)
    assert cost.prefill_ps(0, context) <= one <= cost.prefill_ps(tokens + a, context + b)


@pytest.mark.parametrize("name", ["dense", "moe", "windows", "latent", "sparse"])
def test_prefill_is_what_a_busy_step_grows_by(name: str) -> None:
    """Where arithmetic binds already, the step grows by the price of the chunk and a sequence."""
    cost = COSTS[name]
    busy = StepShape(0, 0, ((65536, 0),), 0)
    with_chunk = StepShape(0, 0, ((65536, 0), (1000, 3000)), 0)
    growth = cost.duration_ps(with_chunk) - cost.duration_ps(busy)
    assert growth == pytest.approx(cost.prefill_ps(1000, 3000) + 4e6, rel=0.01)


def test_weights_dominate_a_single_token_and_arithmetic_a_long_prompt() -> None:
    none = Overheads(host_step_s=0, host_sequence_s=0, layer_launch_s=0)
    cost = Roofline(model("llama-3.1-8b"), gpu("h100"), overheads=none)
    embedding = 128256 * 4096
    weights = (model("llama-3.1-8b").parameters - embedding) * 2
    one = cost.duration_ps(decode(1, 1)) / 1e12
    assert one == pytest.approx(weights / (0.85 * 3.35e12), rel=0.01)
    tokens = 8192
    prompt = cost.duration_ps(StepShape(0, 0, ((tokens, 0),), 1)) / 1e12
    arithmetic = 2 * (model("llama-3.1-8b").parameters - 2 * embedding) * tokens / (0.8 * 989e12)
    attention = 32 * 4 * 4096 * tokens * (tokens + 1) / 2 / (0.6 * 989e12)
    # norms, rotary embedding and activation, in bf16
    widths = 4 * 4096 + 2 * (32 + 8) * 128 + 3 * 14336
    elementwise = 32 * tokens * widths * 2 / (0.9 * 3.35e12)
    assert prompt == pytest.approx(arithmetic + attention + elementwise, rel=0.01)


def test_decode_attention_reads_the_cache() -> None:
    cost = COSTS["dense"]
    slope = cost.decode_line(8, 8000).slope_ps
    assert slope == round(131072 / (0.9 * 3.35e12) * 1e12)
    fp8 = Roofline(model("llama-3.1-8b"), gpu("h100"), kv_dtype="fp8").decode_line(8, 8000)
    assert fp8.slope_ps == pytest.approx(slope / 2, abs=1)


def test_experts_are_read_once_hit() -> None:
    """The weights of 128 experts fill in as tokens choose 8 each."""
    none = Overheads(host_step_s=0, host_sequence_s=0, layer_launch_s=0)
    cost = Roofline(model("qwen3-30b-a3b"), gpu("h100"), overheads=none)
    times = [cost.duration_ps(StepShape(n, 0, (), 0)) for n in (1, 2, 64)]
    expert = 3 * 2048 * 768 * 2 * 48 / (0.8 * 3.35e12) * 1e12
    assert times[1] - times[0] == pytest.approx(expert * (8 - 8 * 8 / 128), rel=0.01)
    hit = 128 * (1 - (1 - 8 / 128) ** 64)
    assert times[2] - times[0] == pytest.approx(expert * (hit - 8), rel=0.02)


def test_tensor_parallelism_pays_for_all_reduce() -> None:
    name, card = model("llama-3.1-70b"), gpu("h100")
    free = Overheads(all_reduce_launch_s=0, hop_s=0)
    paid = Roofline(name, card, Parallelism(8)).decode_line(1, 1).base_ps
    without = Roofline(name, card, Parallelism(8), overheads=free).decode_line(1, 1).base_ps
    assert paid - without == pytest.approx(160 * (4.5 + 14 * 0.8) * 1e6, rel=1e-6)
    # sixteen GPUs leave the node of eight: a prompt is slower than on eight
    long = StepShape(0, 0, ((8192, 0),), 1)
    wide = Roofline(model("llama-3.1-405b"), card, Parallelism(16), "fp8").duration_ps(long)
    node = Roofline(model("llama-3.1-405b"), card, Parallelism(8), "fp8").duration_ps(long)
    assert wide > node


def test_a_link_over_pcie_has_its_own_share() -> None:
    over = Overheads()
    assert over.link(gpu("h100"), 2) == (0.8e-6, 0.75 * 450e9)
    assert over.link(gpu("l40s"), 2) == (0.8e-6, 0.6 * 32e9)
    assert over.link(gpu("l40s"), 16) == (5e-6, 0.75 * gpu("l40s").nic_bytes_per_s)


def test_pipeline_is_the_latency_through_all_stages() -> None:
    name, card = model("llama-3.1-8b"), gpu("h100")
    one = Roofline(name, card).duration_ps(decode(1, 100))
    two = Roofline(name, card, Parallelism(1, 2)).duration_ps(decode(1, 100))
    assert two - one == pytest.approx(0.8e6 + 8192 / (0.75 * 450e9) * 1e12, abs=2)


def test_fp8_computes_twice_as_fast_where_the_gpu_can() -> None:
    prompt = StepShape(0, 0, ((512, 0),), 0)
    eight, sixteen = (
        Roofline(model("llama-3.1-70b"), gpu("h100"), Parallelism(2), d).duration_ps(prompt)
        for d in ("fp8", "bf16")
    )
    assert eight < 0.65 * sixteen
    a100 = Roofline(model("llama-3.1-8b"), gpu("a100"), dtype="fp8")  # no fp8 units: weights only
    bf16 = Roofline(model("llama-3.1-8b"), gpu("a100"))
    long = StepShape(0, 0, ((8192, 0),), 0)
    assert a100.duration_ps(long) == pytest.approx(bf16.duration_ps(long), rel=0.01)


def test_images_need_a_vision_tower() -> None:
    step = StepShape(0, 0, ((1024, 0),), 0, images=(1024,))
    without = step._replace(images=())
    seen = COSTS["vision"]
    growth = seen.duration_ps(step) - seen.duration_ps(without)
    layers = 32 * (4 * 1280**2 + 3 * 1280 * 3420) + (5120**2 + 5120 * 3584) / 4
    linear = 2 * layers * 4096 / (0.8 * 362e12)
    pairs = 4 * 4096**2 + 28 * 4096 * 64  # of patches: four layers see all, 28 windows of 8 x 8
    attention = 4 * 1280 * pairs / (0.6 * 362e12)
    assert growth == pytest.approx((linear + attention) * 1e12, rel=1e-6)
    with pytest.raises(InputError, match="8b has no vision tower"):
        COSTS["dense"].duration_ps(step)


def test_an_empty_step_costs_the_host() -> None:
    assert COSTS["dense"].duration_ps(StepShape(0, 0, (), 0)) == 126_000_000


def test_source_names_what_it_is() -> None:
    assert COSTS["dense"].source.startswith("datasheet roofline: llama-3.1-8b bf16 on h100-sxm")
    low = Roofline(model("qwen3-8b"), gpu("910b")).source
    assert "low confidence" in low
    assert COSTS["linear"].source.startswith("linear: 1000 + 7")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("gemm_flops", 0, "gemm_flops must be finite and above 0"),
        ("hop_s", -1e-6, "hop_s must be finite and not negative"),
        ("link_bytes", float("nan"), "link_bytes must be finite and above 0"),
    ],
)
def test_overheads_are_checked(field: str, value: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Overheads(**{field: value})


def test_roofline_refuses_an_impossible_split() -> None:
    with pytest.raises(InputError, match="cannot be split over tp 3"):
        Roofline(model("llama-3.1-8b"), gpu("h100"), Parallelism(3))


def test_linear_formula() -> None:
    cost = LinearCost(1000, 7, 11, 3)
    shape = StepShape(2, 50, ((10, 0), (4, 20)), 3)
    assert cost.duration_ps(shape) == 1000 + 7 * 14 + 11 * 4 + 3 * (50 + 10 + 24)
    assert cost.decode_line(5, 9) == (1000 + 55, 3, UNBOUNDED, None)
    assert cost.prefill_ps(4, 20) == 7 * 4 + 3 * 24
    for bad in ((0, 0, 0, 0), (1, -1, 0, 0)):
        with pytest.raises(InputError, match="at least 1"):
            LinearCost(*bad)


def table(folder: Path, name: str) -> Iterator[dict[str, str]]:
    with gzip.open(folder / f"{name}.csv.gz", "rt") as file:
        yield from csv.DictReader(file)


def measured_steps(folder: Path, layers: int) -> Iterator[tuple[StepShape, float]]:
    """(shape, microseconds) of pure steps, summed from per-layer tables at measured points only."""
    dense: dict[str, dict[int, float]] = {}
    for row in table(folder, "dense"):
        dense.setdefault(row["layer"], {})[int(row["tokens"])] = float(row["time_us"])
    head: dict[int, float] = {}
    for row in table(folder, "per_sequence"):
        count = int(row["sequences"])
        head[count] = head.get(count, 0.0) + float(row["time_us"])
    for row in table(folder, "attention"):
        chunk, before, n, context = (
            int(row[key]) for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
        )
        tokens, sequences = chunk + n, n + (chunk > 0)
        mixed = chunk > 0 and (n > 0 or chunk < 512)
        if mixed or tokens not in dense["embedding"] or sequences not in head:
            continue
        once = dense["embedding"][tokens] + dense["final_layernorm"][tokens]
        layer = sum(
            times[tokens] * (2 if op == "layernorm" else 1)
            for op, times in dense.items()
            if op not in ("embedding", "final_layernorm")
        )
        prefills = ((chunk, before),) if chunk else ()
        total = layers * (layer + float(row["time_us"])) + once + head[sequences]
        yield StepShape(n, n * context, prefills, sequences), total


@pytest.mark.parametrize(
    ("folder", "name", "card", "decode_within", "prefill_within"),
    [
        ("rtx4090_meta-llama_llama-3.1-8b", "llama-3.1-8b", "rtx-4090", 0.08, 0.27),
        ("rtxpro6000_meta-llama_llama-3.1-8b", "llama-3.1-8b", "rtx-pro-6000", 0.08, 0.10),
        ("rtxpro6000_qwen_qwen3-32b", "qwen3-32b", "rtx-pro-6000", 0.08, 0.10),
    ],
)
def test_near_tables_measured_on_real_gpus(
    folder: str, name: str, card: str, decode_within: float, prefill_within: float
) -> None:
    """Median error of a step's kernels; nothing was fitted on these cards."""
    if not SHARED.is_dir():
        pytest.skip("the shared measured tables are not here")
    spec = model(name)
    kernels = Overheads(host_step_s=0, host_sequence_s=0)
    cost = Roofline(spec, gpu(card), overheads=kernels)
    decodes, prefills = [], []
    for shape, microseconds in measured_steps(SHARED / folder / "tp1", spec.layers):
        error = abs(cost.duration_ps(shape) / 1e6 / microseconds - 1)
        (prefills if shape.prefills else decodes).append(error)
    assert min(len(decodes), len(prefills)) > 20
    assert statistics.median(decodes) < decode_within
    assert statistics.median(prefills) < prefill_within


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 2500])
def test_windows_price_pairs_within_them(tokens: int) -> None:
    """Of an image within one window every layer sees all; beyond, most see 64 patches each."""
    found = {name: Roofline(model(name), gpu("l40s")) for name in ("qwen2.5-vl-7b", "qwen2-vl-7b")}
    patches = 4 * tokens
    pair_ps = 4 * 1280 / (0.6 * 362e12) * 1e12
    for name, near in (("qwen2.5-vl-7b", 28), ("qwen2-vl-7b", 0)):
        rate = found[name]._image
        assert rate is not None
        linear_s = max(patches * rate.patch_s, rate.weight_s)
        attended = (32 - near) * patches**2 + near * patches * min(patches, 64)
        expected = linear_s * 1e12 + pair_ps * attended
        assert found[name].image_ps(tokens) == pytest.approx(expected, rel=1e-9, abs=1)


def test_images_of_a_step_are_encoded_one_after_the_other() -> None:
    """Attention is within an image: two of them are no image of twice the size."""
    cost = COSTS["vision"]
    one = StepShape(0, 0, (), 0, (1024,))
    host = cost.duration_ps(one._replace(images=()))
    both = cost.duration_ps(one._replace(images=(1024, 1024)))
    assert both - host == 2 * (cost.duration_ps(one) - host)
    assert both < cost.duration_ps(one._replace(images=(2048,)))
