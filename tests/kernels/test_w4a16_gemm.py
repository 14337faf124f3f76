"""4-bit weights: packing, groups, zeros, odd sizes."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels.w4a16_gemm import pack, reference, w4a16_gemm, work

pytestmark = pytest.mark.usefixtures("poisoned")


class Product(NamedTuple):
    x: torch.Tensor
    packed: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    def double(self) -> Product:
        return Product(self.x.double(), self.packed, self.scales.double(), self.zeros.double())


def product(
    rows: int, k: int, n: int, group: int, dtype: torch.dtype, device: str
) -> tuple[Product, torch.Tensor]:
    """Operands, and the float64 weights that they stand for."""
    torch.manual_seed(rows)
    nibbles = torch.randint(0, 16, (k, n))
    scales = (torch.rand(k // group, n) * 0.02 + 0.01).to(dtype)
    zeros = torch.randint(4, 12, (k // group, n)).to(dtype)
    weights = nibbles.double() - zeros.double().repeat_interleave(group, dim=0)
    weights = weights * scales.double().repeat_interleave(group, dim=0)
    x = torch.randn(rows, k).to(dtype)
    return Product(*(t.to(device) for t in (x, pack(nibbles), scales, zeros))), weights.to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "k", "n", "group"),
    [(1, 128, 64, 128), (20, 192, 96, 64), (70, 96, 130, 32), (3, 96, 40, 48)],
)
def test_it_is_the_product_of_the_weights(
    rows: int, k: int, n: int, group: int, dtype: torch.dtype, device: str, close
) -> None:
    given, weights = product(rows, k, n, group, dtype, device)
    y = w4a16_gemm(*given)
    assert y.dtype == dtype
    close(y, given.x.double() @ weights)
    torch.testing.assert_close(reference(*given.double()), given.x.double() @ weights)


def test_packing_by_hand() -> None:
    nibbles = torch.tensor([1, 2, 3, 4, 5, 6, 7, 15])[:, None]
    assert pack(nibbles).item() == 0xF7654321 - 2**32


def test_a_group_that_no_tile_divides_is_refused(device: str) -> None:
    given, _ = product(2, 48, 16, 24, torch.float32, device)
    with pytest.raises(ValueError, match=r"24 weights\) is no multiple of 16"):
        w4a16_gemm(*given)


def test_work_reads_half_a_byte_a_weight() -> None:
    one = work(rows=1, k=256, n=64, group=128, item_bytes=2)
    assert one.flops == 2 * 256 * 64
    assert one.bytes == 256 * 32 + 2 * 2 * 2 * 64 + 2 * (256 + 64)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 33, 2048])
def test_llama_8b(rows: int, close) -> None:
    given, weights = product(rows, 4096, 14336, 128, torch.bfloat16, "cuda")
    close(w4a16_gemm(*given), given.x.double() @ weights)
