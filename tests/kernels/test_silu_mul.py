"""silu(gate) · up: odd widths, gates far from zero."""

from __future__ import annotations

import pytest
import torch

from infersim.kernels.silu_mul import reference, silu_mul, work

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("tokens", "ffn"), [(1, 64), (5, 300), (3, 1), (2, 2100)])
def test_it_is_the_reference(tokens: int, ffn: int, dtype: torch.dtype, device: str, close) -> None:
    torch.manual_seed(ffn)
    gate_up = (2 * torch.randn(tokens, 2 * ffn)).to(device, dtype)
    close(silu_mul(gate_up), reference(gate_up.double()))


def test_the_reference_is_the_formula(device: str) -> None:
    gate, up = torch.tensor([[-2.0, 0.0, 3.0]]), torch.tensor([[1.0, 5.0, -0.5]])
    expected = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(reference(torch.cat([gate, up], 1)), expected)


def test_gates_far_from_zero_neither_overflow_nor_vanish(device: str) -> None:
    gate_up = torch.tensor([[-200.0, -20.0, 0.0, 20.0, 200.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    out = silu_mul(gate_up.to(device)).cpu()
    expected = reference(gate_up.double()).float()
    # a GPU's fp32 exponent of 20 / ln 2 is rounded to 2e-6: e^20 is as far off
    rtol = 1e-6 if device == "cpu" else 1e-5
    torch.testing.assert_close(out, expected, rtol=rtol, atol=1e-30)


def test_rows_of_a_wider_tensor_and_no_rows(device: str, close) -> None:
    torch.manual_seed(0)
    wide = torch.randn(4, 90, device=device)
    close(silu_mul(wide[:, :66]), reference(wide[:, :66].double()))
    assert silu_mul(wide[:0]).shape == (0, 45)


def test_work_moves_three_values_a_product() -> None:
    assert work(4, 10).bytes == 3 * 4 * 10 * 2


@pytest.mark.gpu
@pytest.mark.parametrize("ffn", [14336, 28672 + 3])
def test_real_widths(ffn: int, close) -> None:
    gate_up = 3 * torch.randn(8192, 2 * ffn, device="cuda", dtype=torch.bfloat16)
    close(silu_mul(gate_up), reference(gate_up.double()))


@pytest.mark.gpu
def test_more_than_2_31_elements(close) -> None:
    gate_up = torch.zeros(80_000, 2 * 14336, device="cuda", dtype=torch.bfloat16)
    gate_up[-5:] = torch.randn(5, 2 * 14336, device="cuda", dtype=torch.bfloat16)
    close(silu_mul(gate_up)[-5:], reference(gate_up[-5:].double()))
