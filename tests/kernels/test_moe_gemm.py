"""The experts of a layer: against the reference, and the reference against a loop by hand."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels.moe_gemm import moe, reference, work
from infersim.kernels.moe_route import reference as route

pytestmark = pytest.mark.usefixtures("poisoned")


class Layer(NamedTuple):
    x: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    weights: torch.Tensor
    ids: torch.Tensor

    def double(self) -> Layer:
        return Layer(*(t.double() for t in self[:4]), self.ids)


def layer(
    tokens: int,
    hidden: int,
    ffn: int,
    experts: int,
    top_k: int,
    dtype: torch.dtype,
    device: str,
) -> Layer:
    torch.manual_seed(tokens)
    weights, ids = route(torch.randn(tokens, experts), top_k)
    return Layer(
        torch.randn(tokens, hidden).to(device, dtype),
        (torch.randn(experts, 2 * ffn, hidden) / hidden**0.5).to(device, dtype),
        (torch.randn(experts, hidden, ffn) / ffn**0.5).to(device, dtype),
        weights.to(device),
        ids.to(device),
    )


@pytest.mark.parametrize(
    ("tokens", "hidden", "ffn", "experts", "top_k", "dtype"),
    [
        (1, 64, 48, 4, 2, torch.float32),
        (70, 64, 40, 2, 1, torch.float32),  # many pairs an expert
        (13, 80, 72, 6, 2, torch.float32),
        (13, 80, 72, 6, 2, torch.float16),
        (13, 80, 72, 6, 2, torch.bfloat16),
    ],
)
def test_it_is_the_reference(
    tokens: int,
    hidden: int,
    ffn: int,
    experts: int,
    top_k: int,
    dtype: torch.dtype,
    device: str,
    close,
) -> None:
    given = layer(tokens, hidden, ffn, experts, top_k, dtype, device)
    y = moe(*given)
    assert y.dtype == dtype
    close(y, reference(*given.double()))


def test_a_pair_of_no_expert_adds_nothing(device: str, close) -> None:
    given = layer(5, 32, 16, 3, 2, torch.float32, device)
    given.ids[2, 1] = -1
    given.ids[4] = -1
    y = moe(*given)
    close(y, reference(*given.double()))
    assert torch.equal(y[4], torch.zeros_like(y[4]))


def test_the_reference_is_the_formula() -> None:
    x, gate_up, down, weights, ids = layer(4, 6, 5, 3, 2, torch.float64, "cpu")
    expected = torch.zeros(4, 6, dtype=torch.float64)
    for t in range(4):
        for k in range(2):
            e = ids[t, k]
            gate, up = gate_up[e, :5] @ x[t], gate_up[e, 5:] @ x[t]
            expected[t] += weights[t, k] * (down[e] @ (gate / (1 + (-gate).exp()) * up))
    torch.testing.assert_close(reference(x, gate_up, down, weights.double(), ids), expected)


def test_no_tokens(device: str) -> None:
    given = layer(2, 32, 16, 3, 2, torch.float32, device)
    assert moe(given.x[:0], *given[1:3], given.weights[:0], given.ids[:0]).shape == (0, 32)


def test_work_reads_the_active_experts_once() -> None:
    one = work(tokens=1, hidden=64, ffn=32, top_k=2, active=2, item_bytes=2)
    assert one.flops == 2 * 2 * 3 * 64 * 32
    assert one.bytes == 2 * (2 * 3 * 64 * 32 + 2 * 64) + 16


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 33, 4096])
def test_qwen3_30b_a3b(tokens: int, close) -> None:
    given = layer(tokens, 2048, 768, 128, 8, torch.bfloat16, "cuda")
    close(moe(*given), reference(*given.double()))
