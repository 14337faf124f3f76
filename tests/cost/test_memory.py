"""KV capacity: its terms add up, and it gives what engines printed on real machines."""

from __future__ import annotations

import pytest

from infersim.policies.errors import InputError, UnknownNameError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.memory import GIB, KvCapacity, MemoryOverheads, kv_capacity
from infersim.sim.cost.parameters import stage_layers
from infersim.sim.cost.specs import Parallelism

SPLITS = [
    ("llama-3.1-8b", "h100", 1, 1),
    ("llama-3.1-8b", "l4", 1, 1),
    ("llama-3.1-70b", "h100", 8, 1),
    ("llama-3.1-70b", "h100", 2, 3),
    ("deepseek-v3", "h200", 8, 1),
    ("deepseek-v3", "h100", 8, 2),
    ("qwen3-30b-a3b", "a100", 4, 1),
    ("gpt-oss-120b", "h100", 2, 1),
    ("qwen2.5-vl-7b", "l40s", 1, 1),
    ("glm-5", "b300", 8, 1),
]


def capacity(name: str, card: str, tp: int = 1, pp: int = 1, **options: object) -> KvCapacity:
    return kv_capacity(model(name), gpu(card), Parallelism(tp, pp), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "card", "tp", "pp"), SPLITS)
def test_terms_add_up_to_the_budget(name: str, card: str, tp: int, pp: int) -> None:
    c = capacity(name, card, tp, pp)
    terms = {label: size for label, size, _ in c.terms()}
    assert terms.pop("GPU memory") == gpu(card).memory_bytes
    assert terms.pop("budget") == c.budget_bytes == int(gpu(card).memory_bytes * 0.9)
    assert sum(terms.values()) == c.budget_bytes
    assert 0 <= c.unused_bytes < c.block_bytes
    assert c.kv_tokens == c.kv_blocks * 16
    assert min(terms.values()) >= 0


# Read off the start-up logs of vLLM 0.11 on an H100 with 79.18 GiB (public: llm-d-benchmark,
# config_explorer/empirical-vllm-memory-results.md), GiB: weights, activation peak, left for KV.
MEASURED = [
    ("gpt-oss-20b", 1, "auto", 0.9, 13.47, 7.38, 50.28, 0.001),
    ("gpt-oss-120b", 1, "auto", 0.95, 64.38, 7.38, 3.33, 0.04),
    ("llama-3.1-70b", 2, "fp8", 0.9, 33.88, 4.84, 32.0, 0.002),
    ("llama-3.1-8b", 1, "auto", 0.9, 14.99, 4.76, 51.38, 0.001),
    ("qwen3-0.6b", 1, "auto", 0.9, 1.12, 5.56, 64.45, 0.001),
    ("qwen3-32b", 1, "auto", 0.9, 61.03, 5.64, 4.45, 0.005),
    ("qwen3-32b", 2, "auto", 0.9, 30.59, 5.64, 34.49, 0.005),
]


@pytest.mark.parametrize(
    ("name", "tp", "dtype", "share", "weights", "activation", "left", "within"), MEASURED
)
def test_what_vllm_printed_on_an_h100(
    name: str,
    tp: int,
    dtype: str,
    share: float,
    weights: float,
    activation: float,
    left: float,
    within: float,
) -> None:
    c = capacity(name, "h100", tp, dtype=dtype, memory_fraction=share, max_num_seqs=1024)
    assert (c.weights_bytes + c.rope_cache_bytes) / GIB == pytest.approx(weights, rel=0.005)
    assert c.activation_peak_bytes / GIB == pytest.approx(activation, rel=0.005)
    room = c.budget_bytes - c.taken_bytes + c.sliding_reserve_bytes
    assert room / GIB == pytest.approx(left, rel=within)


def test_other_versions_of_vllm_differ_by_less_than_a_twentieth() -> None:
    card = capacity("llama-3.1-8b", "rtx-4090", max_num_batched_tokens=2048)
    assert card.kv_blocks == pytest.approx(2588, rel=0.04)  # 0.19 printed 2588; this says 2486
    a100 = capacity(
        "llama-3.1-8b", "a100", max_num_batched_tokens=2048, memory_fraction=0.92
    )  # 0.31 printed 460,496 tokens
    assert a100.kv_tokens == pytest.approx(460_496, rel=0.01)
    assert 27_000 < capacity("llama-3.1-8b", "h100").kv_blocks < 28_500


def test_overheads_are_the_callers() -> None:
    plain = capacity("llama-3.1-8b", "rtx-4090", max_num_batched_tokens=2048)
    graphs = MemoryOverheads(cuda_graph_bytes=GIB, sampler_bytes_per_logit=32.0)
    other = capacity("llama-3.1-8b", "rtx-4090", max_num_batched_tokens=2048, overheads=graphs)
    assert other.cuda_graph_bytes == GIB
    assert other.kv_blocks == plain.kv_blocks + (6.3 * 256 * 128256 - GIB) // other.block_bytes + 1
    with pytest.raises(InputError, match="non_torch_bytes must be finite and not negative"):
        MemoryOverheads(non_torch_bytes=-1)


def test_kv_heads_are_split_until_one_is_left_and_latents_never() -> None:
    m = model("qwen3-30b-a3b")  # 4 KV heads
    whole = m.kv_bytes_per_token()
    assert [whole // m.kv_bytes_per_token(tp=t) for t in (1, 2, 4, 8, 16)] == [1, 2, 4, 4, 4]
    latent = model("deepseek-v3")
    assert {latent.kv_bytes_per_token(tp=t) for t in (1, 2, 8, 16)} == {70_272}
    assert latent.kv_bytes_per_token("fp8") == 35_136
    assert m.kv_bytes_per_token(pp=2) == whole // 2


def test_sliding_layers_stop_growing() -> None:
    m = model("gpt-oss-120b")
    c = capacity("gpt-oss-120b", "h100", 2)
    assert c.kv_bytes_per_token == m.kv_bytes_per_token(tp=2) // 2
    window = 256 * (128 + 16) + 8192
    assert c.sliding_reserve_bytes == window * c.kv_bytes_per_token
    # where there is little room the windows take no more than their layers' share
    tight = capacity("gpt-oss-120b", "h100", 1, memory_fraction=0.95, max_num_seqs=1024)
    assert tight.sliding_reserve_bytes == pytest.approx(
        tight.kv_blocks * tight.block_bytes, rel=0.01
    )


def test_stages_are_dealt_like_vllm_and_the_fullest_decides() -> None:
    assert stage_layers(61, 4) == [15, 15, 16, 15]
    assert stage_layers(80, 3) == [27, 27, 26]
    assert stage_layers(32, 1) == [32]
    last = capacity("llama-3.1-8b", "l4", 1, 2)  # it samples
    assert (last.stage, last.activation_peak_bytes > 2**30) == (1, True)
    m = model("llama-3.1-8b")
    halves = m.weight_bytes(pp=2)
    table = 128256 * 4096 * 2
    assert halves == (m.parameters * 2 - 2 * table - 4096 * 2) // 2 + table + 4096 * 2


def test_too_big_says_by_how_much_and_what_would_fit() -> None:
    with pytest.raises(InputError, match=r"llama-3.1-70b \(bf16\).* 6[0-9]\.\d GB short") as error:
        capacity("llama-3.1-70b", "h100")
    assert error.value.help == "tp 2 fits"
    with pytest.raises(InputError, match="short") as error:
        capacity("deepseek-v3", "h100", 8)
    assert "raise pp" in error.value.help
    assert capacity("llama-3.1-70b", "h100", 2).kv_blocks > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory_fraction": 1.0}, r"at most 0\.992 on h100-sxm, found 1"),
        ({"memory_fraction": 0.0}, "must be above 0"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1"),
        ({"max_num_batched_tokens": -1}, "max_num_batched_tokens must be at least 1"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"dtype": "fp7"}, 'unknown dtype "fp7"'),
        ({"kv_dtype": "fp4"}, 'unknown KV dtype "fp4"'),
        ({"tp": 7}, "allowed: 1, 2, 4, 8"),
        ({"pp": 33}, "too few for pp 33"),
        ({"tp": 0}, "tp must be at least 1"),
    ],
)
def test_bad_arguments(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        capacity("llama-3.1-8b", "h100", **options)


def test_formats() -> None:
    m = model("llama-3.1-8b")
    assert m.format("awq").name == "int4"
    assert m.format("float16").name == "bf16"
    tables = 2 * 128256 * 4096 * 2
    norms = (65 * 4096) * 2
    matrices = m.parameters - tables // 2 - norms // 2
    assert m.weight_bytes("fp8") == matrices + tables + norms
    assert m.weight_bytes("int4") == round(matrices * (0.5 + 2.5 / 128)) + tables + norms
    with pytest.raises(UnknownNameError):
        m.format("")
