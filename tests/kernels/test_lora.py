"""Adapters: another for every row, none for some, in place."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels.lora import lora, reference, work

pytestmark = pytest.mark.usefixtures("poisoned")
MIXED = [0, -1, 2, 2, 1, -1]


class Adapters(NamedTuple):
    x: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    adapter: torch.Tensor
    scale: torch.Tensor

    def double(self) -> Adapters:
        x, a, b, adapter, scale = self
        return Adapters(x.double(), a.double(), b.double(), adapter, scale.double())


def adapters(
    chosen: list[int], count: int, k: int, n: int, rank: int, dtype: torch.dtype, device: str
) -> tuple[Adapters, torch.Tensor]:
    torch.manual_seed(rank)
    given = Adapters(
        torch.randn(len(chosen), k).to(device, dtype),
        (torch.randn(count, rank, k) / k**0.5).to(device, dtype),
        (torch.randn(count, n, rank) / rank**0.5).to(device, dtype),
        torch.tensor(chosen, dtype=torch.int32, device=device),
        (torch.rand(count) + 0.5).to(device),
    )
    return given, torch.randn(len(chosen), n).to(device, dtype)


def check(given: Adapters, out: torch.Tensor, close) -> None:
    expected = out.double()
    before = out.clone()
    reference(*given.double(), expected)
    lora(*given, out)
    # what was added, not the large part that was there
    close(out, expected)
    none = given.adapter < 0
    assert torch.equal(out[none], before[none])


@pytest.mark.parametrize(
    ("chosen", "rank", "dtype"),
    [
        ([0], 16, torch.float32),
        ([2] * 18 + [0] * 3, 20, torch.float32),
        (MIXED, 8, torch.float32),
        (MIXED, 8, torch.float16),
        (MIXED, 8, torch.bfloat16),
    ],
    ids=str,
)
def test_it_is_the_reference(
    chosen: list[int], rank: int, dtype: torch.dtype, device: str, close
) -> None:
    check(*adapters(chosen, 3, 1000, 70, rank, dtype, device), close)


def test_many_rows_an_adapter(device: str, close) -> None:
    check(*adapters([0] * 70, 1, 96, 80, 16, torch.float32, device), close)


def test_no_row_has_an_adapter(device: str) -> None:
    given, out = adapters([-1, -1], 2, 64, 32, 8, torch.float32, device)
    before = out.clone()
    lora(*given, out)
    assert torch.equal(out, before)


def test_it_adds_to_a_slice_in_place(device: str, close) -> None:
    """The query's part of a fused qkv result."""
    given, _ = adapters([1, 0], 2, 64, 32, 8, torch.float32, device)
    qkv = torch.randn(2, 96, device=device)
    before = qkv.clone()
    expected = qkv[:, 32:64].double()
    reference(*given.double(), expected)
    lora(*given, qkv[:, 32:64])
    close(qkv[:, 32:64], expected)
    assert torch.equal(qkv[:, :32], before[:, :32])
    assert torch.equal(qkv[:, 64:], before[:, 64:])


def test_the_reference_is_the_formula() -> None:
    given, out = adapters([1, -1, 0], 2, 6, 5, 3, torch.float64, "cpu")
    x, a, b, _, scale = given.double()
    expected = out.clone()
    for t, i in ((0, 1), (2, 0)):
        expected[t] += scale[i] * (b[i] @ (a[i] @ x[t]))
    reference(x, a, b, given.adapter, scale, out)
    torch.testing.assert_close(out, expected)


def test_work_reads_the_active_adapters_once() -> None:
    one = work(rows=4, k=64, n=32, rank=8, active=2, item_bytes=2)
    assert one.flops == 2 * 4 * 8 * 96
    assert one.bytes == 2 * (2 * 8 * 96 + 4 * (64 + 64)) + 16


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64, 4096])
def test_rank_64_of_llama_8b(rows: int, close) -> None:
    chosen = torch.randint(-1, 8, (rows,)).tolist()
    check(*adapters(chosen, 8, 4096, 6144, 64, torch.bfloat16, "cuda"), close)
