"""e4m3: every code back and forth, rounding, the clamp, bit by bit what torch makes of it."""

from __future__ import annotations

import pytest
import torch

from infersim.kernels import fp8_kv as module
from infersim.kernels.fp8_kv import E4M3, dequantize, dequantize_reference, quantize, reference
from infersim.kernels.fp8_kv import work as work_of

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=[90, 80], ids=["native", "bits"])
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A device with the type, and one that keeps it as uint8."""
    if request.param == 80:
        monkeypatch.setattr(module, "architecture", lambda device: 80)
    return request.param


def values(dtype: torch.dtype, device: str) -> torch.Tensor:
    """Over the whole range of the type and beyond, with ties, its limits and its smallest."""
    torch.manual_seed(0)
    spread = torch.randn(2500) * torch.logspace(-5, 3.5, 2500)
    special = [60.0, -60.0, 126.5, 448.0, -448.0, 464.0, 480.0, 1e4, -1e4, 0.0, -0.0, 2**-10, 0.013]
    ties = torch.arange(1, 256) / 32  # halves between neighbours, among others
    return torch.cat([torch.tensor(special), ties, -ties, spread]).to(device, dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.05, 3.0])
def test_bits_are_those_of_torch(dtype: torch.dtype, scale: float, device: str) -> None:
    x = values(dtype, device)
    x8 = quantize(x, scale)
    assert same_bits(x8, (x.float() * (1 / scale)).clamp(-448, 448).to(E4M3))
    assert same_bits(x8, reference(x, scale))


@pytest.mark.usefixtures("architecture")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_code_comes_back(dtype: torch.dtype, device: str, close) -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    codes = codes[(codes & 0x7F) != 0x7F].view(E4M3)
    assert same_bits(quantize(dequantize(codes, 0.5, dtype), 0.5), codes)
    close(dequantize(codes, 0.37, dtype), dequantize_reference(codes, 0.37, torch.float64))


@pytest.mark.usefixtures("architecture")
def test_nan_stays_nan(device: str) -> None:
    x = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")], device=device)
    back = dequantize(quantize(x, 1.0), 1.0, torch.float32)
    assert back.isnan().tolist() == [False, True, False, False]
    assert back[[0, 2, 3]].tolist() == [1.0, 448.0, -448.0]


def test_shape_is_kept_and_strides_are_free(device: str) -> None:
    x = torch.randn(6, 10, 7, device=device)
    x8 = quantize(x.transpose(0, 2), 0.1)
    assert x8.shape == (7, 10, 6)
    assert same_bits(x8, reference(x.transpose(0, 2).contiguous(), 0.1))
    assert dequantize(x8[:0], 1.0, torch.float32).shape == (0, 10, 6)


def test_work_moves_a_byte_and_a_wide_value() -> None:
    assert work_of(100).bytes == 300


@pytest.mark.gpu
def test_more_than_2_31_elements() -> None:
    x = torch.zeros(2**31 + 100, dtype=torch.float16, device="cuda")
    x[-64:] = torch.randn(64, device="cuda").half() * 300
    x8 = quantize(x, 0.5)
    assert same_bits(x8[-64:], reference(x[-64:], 0.5))
    assert torch.equal(dequantize(x8, 0.5, torch.float16)[-64:].float(), x8[-64:].float() * 0.5)
