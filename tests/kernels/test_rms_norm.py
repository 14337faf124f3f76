"""RMS norm, alone and after a residual: odd widths, strided rows, rows of zeros."""

from __future__ import annotations

import pytest
import torch

from infersim.kernels.rms_norm import add_reference, add_rms_norm, reference, rms_norm, work

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def rows(count: int, width: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    torch.manual_seed(width)
    return (3 * torch.randn(count, width)).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "width"), [(1, 64), (13, 300), (9, 1), (3, 2500)])
def test_they_are_the_references(
    count: int, width: int, dtype: torch.dtype, device: str, close
) -> None:
    x, residual, weight = rows(2 * count + 1, width, dtype, device).tensor_split([count, 2 * count])
    close(rms_norm(x, weight[0], 1e-5), reference(x.double(), weight[0].double(), 1e-5))
    y, total = add_rms_norm(x, residual, weight[0], 1e-5)
    expected, sums = add_reference(x.double(), residual.double(), weight[0].double(), 1e-5)
    close(y, expected)
    close(total, sums)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_wider_tensor(dtype: torch.dtype, device: str, close) -> None:
    wide = rows(5, 200, dtype, device)
    weight = torch.ones(72, device=device, dtype=dtype)
    y, total = add_rms_norm(wide[:, :72], wide[:, 100:172], weight, 1e-6)
    x = wide.double()
    expected, sums = add_reference(x[:, :72], x[:, 100:172], weight.double(), 1e-6)
    close(y, expected)
    close(total, sums)


def test_the_reference_is_the_formula(device: str) -> None:
    x = rows(4, 50, torch.float64, device)
    weight = rows(1, 50, torch.float64, device)[0]
    expected = x / torch.sqrt((x * x).sum(-1, keepdim=True) / 50 + 1e-5) * weight
    torch.testing.assert_close(reference(x, weight, 1e-5), expected)


def test_eps_keeps_zeros_finite_and_counts(device: str, close) -> None:
    x = torch.zeros(2, 40, device=device)
    x[1] = 1e-3
    weight = torch.ones(40, device=device)
    y = rms_norm(x, weight, 1e-5)
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    close(y, reference(x.double(), weight.double(), 1e-5))


def test_the_sum_is_normalised_before_it_is_rounded(device: str) -> None:
    x = torch.full((1, 16), 256.0, dtype=torch.bfloat16, device=device)
    residual = torch.full((1, 16), 0.5, dtype=torch.bfloat16, device=device)
    residual[0, 0] = -0.5
    weight = torch.full((16,), 128.0, dtype=torch.bfloat16, device=device)
    y, total = add_rms_norm(x, residual, weight, 1e-6)
    expected, rounded = add_reference(x, residual, weight, 1e-6)
    assert expected[0, 0] == 127.5
    assert torch.equal(y, expected)
    assert torch.equal(total, rounded)


def test_no_rows_and_too_wide_rows(device: str) -> None:
    weight = torch.ones(8, device=device)
    assert rms_norm(torch.ones(0, 8, device=device), weight, 1e-5).shape == (0, 8)
    with pytest.raises(ValueError, match="rows of 40000 are wider than 32768"):
        rms_norm(torch.ones(1, 40000, device=device), torch.ones(40000, device=device), 1e-5)


def test_work_counts_the_weight_once() -> None:
    assert work(3, 10).bytes == 2 * (2 * 3 * 10 + 10)
    assert work(3, 10, residual=True).bytes == 2 * (4 * 3 * 10 + 10)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [128, 4096, 7168, 16384, 32768])
def test_real_widths(width: int, close) -> None:
    x, residual = rows(2 * 4099, width, torch.bfloat16, "cuda").chunk(2)
    weight = torch.rand(width, device="cuda", dtype=torch.bfloat16)
    y, total = add_rms_norm(x, residual, weight, 1e-5)
    expected, sums = add_reference(x.double(), residual.double(), weight.double(), 1e-5)
    close(y, expected)
    close(total, sums)
    close(rms_norm(x, weight, 1e-5), reference(x.double(), weight.double(), 1e-5))
