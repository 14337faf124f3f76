"""MLA decode on latents: ragged lengths, splits, scattered blocks, and what it means."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels.mla_decode import mla_decode, reference, work

pytestmark = pytest.mark.usefixtures("poisoned")


class Batch(NamedTuple):
    q: torch.Tensor
    cache: torch.Tensor
    block_table: torch.Tensor
    lengths: torch.Tensor

    def double(self) -> Batch:
        return Batch(self.q.double(), self.cache.double(), *self[2:])


def batch(
    lengths: list[int],
    heads: int,
    dtype: torch.dtype,
    device: str,
    block_size: int = 16,
    width: int = 48,
) -> Batch:
    """Blocks in random order; those of no sequence, and rows past the end, hold NaN."""
    torch.manual_seed(heads)
    per_sequence = max(1, -(-max(lengths) // block_size))
    order = torch.randperm(len(lengths) * per_sequence + 3, dtype=torch.int32)
    table = order[: len(lengths) * per_sequence].reshape(len(lengths), -1)
    cache = torch.full((order.numel(), block_size, width), torch.nan)
    for i, length in enumerate(lengths):
        for t in range(length):
            cache[table[i, t // block_size], t % block_size] = torch.randn(width)
    return Batch(
        torch.randn(len(lengths), heads, width).to(device, dtype),
        cache.to(device, dtype),
        table.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )


@pytest.mark.parametrize(
    ("heads", "splits", "dtype"),
    [
        (16, 1, torch.float32),
        (40, 3, torch.float32),
        (5, 2, torch.float32),
        (5, 2, torch.float16),
        (5, 2, torch.bfloat16),
    ],
    ids=str,
)
def test_it_is_the_reference(
    heads: int, splits: int, dtype: torch.dtype, device: str, close
) -> None:
    given = batch([1, 16, 0, 17, 150], heads, dtype, device)
    out = mla_decode(*given, scale=0.3, kv_lora=32, splits=splits)
    assert out.dtype == dtype
    close(out, reference(*given.double(), scale=0.3, kv_lora=32))
    assert torch.equal(out[2], torch.zeros_like(out[2]))  # length 0


@pytest.mark.parametrize("block_size", [1, 48, 64])
def test_any_block_size(block_size: int, device: str, close) -> None:
    given = batch([70, 63], 3, torch.float32, device, block_size=block_size)
    out = mla_decode(*given, scale=0.3, kv_lora=32)
    close(out, reference(*given.double(), scale=0.3, kv_lora=32))


def test_large_scores_do_not_overflow(device: str, close) -> None:
    given = batch([90], 2, torch.float32, device)
    out = mla_decode(*given, scale=40.0, kv_lora=32, splits=2)
    close(out, reference(*given.double(), scale=40.0, kv_lora=32))


def test_on_latents_it_is_attention_on_keys_and_values() -> None:
    """q·(U_k c) = (U_kᵀ q)·c, and Σ p U_v c = U_v Σ p c: absorption changes nothing."""
    torch.manual_seed(0)
    heads, head_dim, kv_lora, rope, length = 3, 8, 16, 16, 11
    latent, rotated = torch.randn(length, kv_lora).double(), torch.randn(length, rope).double()
    up_k, up_v = torch.randn(2, heads, head_dim, kv_lora).double()
    q, q_rope = torch.randn(heads, head_dim).double(), torch.randn(heads, rope).double()
    keys = torch.cat([torch.einsum("hdc,tc->htd", up_k, latent), rotated.expand(heads, -1, -1)], -1)
    values = torch.einsum("hdc,tc->htd", up_v, latent)
    weights = torch.einsum("hd,htd->ht", torch.cat([q, q_rope], -1), keys).mul(0.2).softmax(-1)
    expected = torch.einsum("ht,htd->hd", weights, values)

    absorbed = torch.cat([torch.einsum("hd,hdc->hc", q, up_k), q_rope], -1)[None]
    cache = torch.zeros(2, 16, kv_lora + rope).double()
    cache[1, :length] = torch.cat([latent, rotated], -1)
    table = torch.tensor([[1]], dtype=torch.int32)
    lengths = torch.tensor([length], dtype=torch.int32)
    out = reference(absorbed, cache, table, lengths, scale=0.2, kv_lora=kv_lora)
    torch.testing.assert_close(torch.einsum("hc,hdc->hd", out[0], up_v), expected)


def test_odd_widths_are_refused(device: str) -> None:
    given = batch([3], 2, torch.float32, device)
    with pytest.raises(ValueError, match="kv_lora \\(40\\) is not a power of two"):
        mla_decode(*given, scale=1.0, kv_lora=40)
    with pytest.raises(ValueError, match="rope \\(8\\) is not a power of two"):
        mla_decode(given.q[..., :40], *given[1:], scale=1.0, kv_lora=32)


def test_work_reads_each_latent_once() -> None:
    one = work([10, 5], heads=4, kv_lora=32, rope=16, item_bytes=2)
    assert one.flops == 2 * 4 * 15 * 80
    assert one.bytes == 2 * (15 * 48 + 8 * 80)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [16, 128])
def test_deepseek_v3(heads: int, close) -> None:
    lengths = [1, 4096, 0, 777, 8191]
    torch.manual_seed(0)
    cache = torch.randn(640, 64, 576, device="cuda", dtype=torch.bfloat16)
    table = torch.randperm(640, device="cuda", dtype=torch.int32).reshape(5, 128)
    given = Batch(
        torch.randn(5, heads, 576, device="cuda", dtype=torch.bfloat16),
        cache,
        table,
        torch.tensor(lengths, dtype=torch.int32, device="cuda"),
    )
    out = mla_decode(*given, scale=0.04, kv_lora=512)
    close(out, reference(*given.double(), scale=0.04, kv_lora=512))


@pytest.mark.gpu
def test_a_cache_of_more_than_2_31_elements(close) -> None:
    blocks = 2**31 // (64 * 576) + 8
    cache = torch.empty(blocks, 64, 576, device="cuda", dtype=torch.bfloat16)
    table = torch.arange(blocks - 4, blocks, dtype=torch.int32, device="cuda")[None]
    cache[-4:] = torch.randn(4, 64, 576, device="cuda", dtype=torch.bfloat16)
    q = torch.randn(1, 16, 576, device="cuda", dtype=torch.bfloat16)
    lengths = torch.tensor([250], dtype=torch.int32, device="cuda")
    out = mla_decode(q, cache, table, lengths, scale=0.04, kv_lora=512)
    near = torch.arange(4, dtype=torch.int32, device="cuda")[None]
    expected = reference(q.double(), cache[-4:].double(), near, lengths, scale=0.04, kv_lora=512)
    close(out, expected)
