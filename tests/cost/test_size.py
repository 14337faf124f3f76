"""``infersim size``: weights and KV within 1 % of sums done by hand, and a table one can read."""

from __future__ import annotations

import json

import pytest

from infersim.policies.errors import InputError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.linear import LinearCost
from infersim.sim.cost.size import Size, prefill_s, size
from infersim.sim.cost.specs import Parallelism

# By hand, per GPU. Weights: parameters x bytes / tp (experts and matrices divide evenly; norms,
# routers and latent projections do not, under 1 %). KV: 2 x heads x 128 x 2 bytes x layers.
HAND = [
    ("llama-3.1-8b", "h100", 1, 8.030e9 * 2, 2 * 8 * 128 * 2 * 32),
    ("llama-3.1-8b", "h100", 8, 8.030e9 * 2 / 8, 2 * 1 * 128 * 2 * 32),
    ("llama-3.1-70b", "b200", 1, 70.554e9 * 2, 2 * 8 * 128 * 2 * 80),
    ("llama-3.1-70b", "h100", 8, 70.554e9 * 2 / 8, 2 * 1 * 128 * 2 * 80),
    # fp8, tables in bf16; q_a, kv_a and routers whole on each GPU: 61 x 7168 x (1536 + 576) bytes
    # and 58 x 7168 x 256 x 2
    (
        "deepseek-v3",
        "h200",
        8,
        (671.03e9 + 2 * 129280 * 7168) / 8 + 7 / 8 * (61 * 7168 * 2112 + 58 * 7168 * 256 * 2),
        (512 + 64) * 2 * 61,
    ),
    ("qwen3-30b-a3b", "h100", 1, 30.532e9 * 2, 2 * 4 * 128 * 2 * 48),
    ("qwen3-30b-a3b", "h100", 4, 30.532e9 * 2 / 4, 2 * 1 * 128 * 2 * 48),
]


@pytest.mark.parametrize(("name", "card", "tp", "weights", "kv"), HAND)
def test_weights_and_kv_within_a_hundredth(
    name: str, card: str, tp: int, weights: float, kv: int
) -> None:
    s = size(model(name), gpu(card), Parallelism(tp))
    assert s.capacity.weights_bytes == pytest.approx(weights, rel=0.01)
    assert s.kv_bytes_per_token == kv


@pytest.fixture(scope="module")
def eight_b() -> Size:
    return size(model("llama-3.1-8b"), gpu("h100"))


def test_limits_follow_from_blocks(eight_b: Size) -> None:
    tokens = eight_b.capacity.kv_tokens
    assert eight_b.max_context_tokens == 131072 < tokens
    assert eight_b.max_batch == {1024: 256, 4096: tokens // 4096, 16384: tokens // 16384, 65536: 6}
    small = size(model("llama-3.1-8b"), gpu("rtx-4090"))
    assert small.max_context_tokens == small.capacity.kv_tokens
    assert small.tpot_s[128] is None
    assert small.tpot_s[32] is not None
    assert ("TPOT at batch 128", "does not fit") in [row[:2] for row in small.rows()]


def test_latencies_are_near_what_an_h100_does(eight_b: Size) -> None:
    # vLLM, Llama-3.1-8B bf16 on an H100: 6.3 to 7.5 ms a token at batch 1, about 20 to 30 ms for
    # a prompt of 1,024; a roofline is allowed a fifth
    assert 5.2e-3 < (eight_b.tpot_s[1] or 0) < 8.2e-3
    assert 16e-3 < (eight_b.ttft_s[1024] or 0) < 36e-3
    times = [eight_b.tpot_s[b] or 0 for b in (1, 32, 128)]
    assert times == sorted(times)


def test_machine_form_is_json(eight_b: Size) -> None:
    plain = json.loads(json.dumps(eight_b.as_dict()))
    assert plain["capacity"]["kv_blocks"] == eight_b.capacity.kv_blocks
    assert plain["ttft_s"]["1024"] == eight_b.ttft_s[1024]
    assert plain["dtype"] == plain["kv_dtype"] == "bf16"
    assert "not calibrated" in plain["source"]


def test_rows_are_label_value_how(eight_b: Size) -> None:
    rows = eight_b.rows()
    labels = [label for label, _, _ in rows]
    assert ("weights", "16.06 GB") in [row[:2] for row in rows]
    for label in ("KV per token", "max context", "TTFT of 8,192", "TPOT at batch 128"):
        assert label in labels
    assert all(isinstance(cell, str) and cell for row in rows for cell in row)


def test_prompt_in_chunks() -> None:
    cost = LinearCost(base_ps=1000, per_prefill_token_ps=10, per_context_token_ps=1)
    # 1,000 + 500 + 1: three steps; the last token of a prompt alone is a decode
    expected = 3 * 1000 + 10 * 2000 + (1000 + 2000) + 2001
    assert prefill_s(cost, 2001, 1000) * 1e12 == pytest.approx(expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit on rtx-4090"):
        size(model("llama-3.1-70b"), gpu("4090"))
