"""e4m3 GEMM: scales of a tensor and of rows, odd sizes, the whole range of the type."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels import fp8_gemm as module
from infersim.kernels.fp8_gemm import fp8_gemm, reference, work

pytestmark = pytest.mark.usefixtures("poisoned")


class Product(NamedTuple):
    x8: torch.Tensor
    w8: torch.Tensor
    x_scale: torch.Tensor
    w_scale: torch.Tensor


def product(rows: int, k: int, n: int, device: str, by_row: bool = False) -> Product:
    torch.manual_seed(rows)
    return Product(
        (100 * torch.randn(rows, k)).clamp(-448, 448).to(device, torch.float8_e4m3fn),
        (0.01 * torch.randn(n, k)).to(device, torch.float8_e4m3fn),  # many are subnormal
        (torch.rand(rows if by_row else 1) + 0.5).to(device),
        (torch.rand(n if by_row else 1) + 0.5).to(device),
    )


@pytest.mark.parametrize("by_row", [False, True], ids=["a tensor", "a row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "k", "n"), [(1, 128, 64), (20, 208, 50), (130, 64, 129)])
def test_it_is_the_reference(
    rows: int, k: int, n: int, dtype: torch.dtype, by_row: bool, device: str, close
) -> None:
    given = product(rows, k, n, device, by_row)
    y = fp8_gemm(*given, dtype)
    assert y.dtype == dtype
    close(y, reference(*given, torch.float64))


def test_one_scale_of_each_kind(device: str, close) -> None:
    given = product(5, 96, 33, device, by_row=True)._replace(x_scale=torch.ones(1, device=device))
    close(fp8_gemm(*given, torch.float32), reference(*given, torch.float64))


def test_the_reference_is_the_formula() -> None:
    x8, w8, x_scale, w_scale = product(3, 16, 4, "cpu", by_row=True)
    expected = (x8.double() * x_scale[:, None].double()) @ (
        w8.double() * w_scale[:, None].double()
    ).T
    torch.testing.assert_close(
        reference(x8, w8, x_scale, w_scale, torch.float64), expected, rtol=1e-12, atol=0
    )


def test_bits_of_e4m3_are_widened_where_the_type_is_missing(
    device: str, close, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "architecture", lambda device: 80)
    given = product(5, 96, 33, device)
    close(fp8_gemm(*given, torch.float32), reference(*given, torch.float64))


@pytest.mark.parametrize("by_row", [False, True], ids=["a tensor", "a row"])
def test_scaled_mm_gets_what_it_means(by_row: bool, device: str, close) -> None:
    given = product(32, 64, 48, device, by_row)
    y = module._by_scaled_mm(*given, torch.bfloat16)
    close(y, reference(*given, torch.float64))


def test_work_reads_a_byte_an_operand() -> None:
    assert work(rows=3, k=64, n=32, item_bytes=2).bytes == 3 * 64 + 32 * 64 + 2 * 3 * 32


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 33, 2048])
@pytest.mark.parametrize("by_row", [False, True], ids=["a tensor", "a row"])
def test_llama_8b(rows: int, by_row: bool, close) -> None:
    given = product(rows, 4096, 14336, "cuda", by_row)
    expected = reference(*given, torch.float64)
    close(fp8_gemm(*given, torch.bfloat16), expected)
    launch = module.CONFIGS[module.architecture(given.x8.device), module._shape(rows)]
    close(module._by_triton(*given, torch.bfloat16, launch), expected)
