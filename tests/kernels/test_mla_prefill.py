"""MLA prefill on latents: ragged chunks over prefixes, causal, heads that share a tile."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels.mla_decode import reference as decode
from infersim.kernels.mla_prefill import mla_prefill, reference, work

pytestmark = pytest.mark.usefixtures("poisoned")


class Batch(NamedTuple):
    q: torch.Tensor
    cache: torch.Tensor
    block_table: torch.Tensor
    query_start: torch.Tensor
    lengths: torch.Tensor

    def double(self) -> Batch:
        return Batch(self.q.double(), self.cache.double(), *self[2:])


def batch(
    chunks: list[tuple[int, int]],
    heads: int,
    dtype: torch.dtype,
    device: str,
    block_size: int = 16,
    kv_lora: int = 32,
    rope: int = 16,
) -> Batch:
    """Of (chunk, prefix) pairs; blocks in random order, NaN where no sequence has a token."""
    torch.manual_seed(heads)
    lengths = [chunk + prefix for chunk, prefix in chunks]
    width = kv_lora + rope
    per_sequence = -(-max(lengths) // block_size)
    order = torch.randperm(len(chunks) * per_sequence + 3, dtype=torch.int32)
    table = order[: len(chunks) * per_sequence].reshape(len(chunks), -1)
    cache = torch.full((order.numel() * block_size, width), torch.nan)
    for i, length in enumerate(lengths):
        t = torch.arange(length)
        cache[table[i, t // block_size] * block_size + t % block_size] = torch.randn(length, width)
    start = torch.tensor([0, *(chunk for chunk, _ in chunks)]).cumsum(0).int()
    return Batch(
        torch.randn(int(start[-1]), heads, width).to(device, dtype),
        cache.reshape(-1, block_size, width).to(device, dtype),
        table.to(device),
        start.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [4, 5])
def test_it_is_the_reference(heads: int, dtype: torch.dtype, device: str, close) -> None:
    given = batch([(19, 0), (1, 40), (16, 16), (7, 31)], heads, dtype, device)
    out = mla_prefill(*given, scale=0.3, kv_lora=32)
    assert out.dtype == dtype
    close(out, reference(*given.double(), scale=0.3, kv_lora=32))


def test_more_heads_than_rows_of_a_tile(device: str, close) -> None:
    given = batch([(2, 3), (1, 0)], 80, torch.float32, device)
    out = mla_prefill(*given, scale=0.3, kv_lora=32)
    close(out, reference(*given.double(), scale=0.3, kv_lora=32))


def test_one_sequence_and_one_that_computes_nothing(device: str, close) -> None:
    alone = batch([(9, 5)], 3, torch.float32, device, block_size=4)
    close(
        mla_prefill(*alone, scale=0.3, kv_lora=32),
        reference(*alone.double(), scale=0.3, kv_lora=32),
    )
    idle = batch([(3, 0), (0, 8), (4, 2)], 3, torch.float32, device)
    close(
        mla_prefill(*idle, scale=0.3, kv_lora=32),
        reference(*idle.double(), scale=0.3, kv_lora=32),
    )


def test_a_chunk_of_one_token_is_a_decode() -> None:
    given = batch([(1, 20), (1, 0)], 3, torch.float64, "cpu")
    decoded = decode(given.q, given.cache, given.block_table, given.lengths, scale=0.3, kv_lora=32)
    torch.testing.assert_close(reference(*given, scale=0.3, kv_lora=32), decoded)


def test_odd_widths_are_refused(device: str) -> None:
    given = batch([(3, 0)], 2, torch.float32, device)
    with pytest.raises(ValueError, match="kv_lora \\(40\\) is not a power of two"):
        mla_prefill(*given, scale=1.0, kv_lora=40)


def test_work_is_half_of_the_square() -> None:
    alone = work(chunk=4, prefix=0, heads=2, kv_lora=32, rope=16, item_bytes=2)
    assert alone.flops == 2 * 2 * 10 * 80
    behind = work(chunk=4, prefix=6, heads=2, kv_lora=32, rope=16, item_bytes=2)
    assert behind.flops - alone.flops == 2 * 2 * 24 * 80


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [16, 128])
def test_deepseek_v3(heads: int, close) -> None:
    given = batch(
        [(512, 0), (1, 2048), (257, 1000)],
        heads,
        torch.bfloat16,
        "cuda",
        block_size=64,
        kv_lora=512,
        rope=64,
    )
    out = mla_prefill(*given, scale=0.04, kv_lora=512)
    close(out, reference(*given.double(), scale=0.04, kv_lora=512))
