"""Decode attention: ragged lengths, splits, windows, fp8, scattered and poisoned blocks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels import decode_attention as module
from infersim.kernels.decode_attention import decode_attention, default_splits, reference, work
from infersim.kernels.fp8_kv import E4M3

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LENGTHS = [1, 16, 0, 17, 150]


class Batch(NamedTuple):
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_table: torch.Tensor
    lengths: torch.Tensor

    def double(self) -> Batch:
        return Batch(*(x.double() for x in self[:3]), *self[3:])


def batch(
    lengths: list[int],
    heads: int,
    kv_heads: int,
    dtype: torch.dtype,
    device: str,
    *,
    cache_dtype: torch.dtype | None = None,
    block_size: int = 16,
    head_dim: int = 64,
) -> Batch:
    """Blocks in random order; those of no sequence, and slots past the end, hold NaN."""
    torch.manual_seed(heads)
    each = max(1, -(-max(lengths) // block_size))
    order = torch.randperm(len(lengths) * each + 3, dtype=torch.int32)
    table = order[: len(lengths) * each].reshape(len(lengths), -1)
    caches = torch.full((2, order.numel() * block_size, kv_heads, head_dim), torch.nan)
    for i, length in enumerate(lengths):
        slots = (table[i, :, None] * block_size + torch.arange(block_size)).flatten()[:length]
        caches[:, slots.long()] = torch.randn(2, length, kv_heads, head_dim)
    k_cache, v_cache = caches.unflatten(1, (-1, block_size)).to(device, cache_dtype or dtype)
    q = torch.randn(len(lengths), heads, head_dim).to(device, dtype)
    count = torch.tensor(lengths, dtype=torch.int32, device=device)
    return Batch(q, k_cache, v_cache, table.to(device), count)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "splits"), [(4, 2, 2), (20, 1, 1), (3, 1, 3), (2, 2, None)]
)
def test_it_is_the_reference(
    heads: int, kv_heads: int, splits: int | None, dtype: torch.dtype, device: str, close
) -> None:
    given = batch(LENGTHS, heads, kv_heads, dtype, device)
    out = decode_attention(*given, scale=0.2, splits=splits)
    assert out.dtype == dtype
    close(out, reference(*given.double(), scale=0.2))
    assert torch.equal(out[2], torch.zeros_like(out[2]))  # length 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("window", "splits"), [(1, 2), (17, 1), (70, 2), (1000, 2)])
def test_windows(window: int, splits: int, dtype: torch.dtype, device: str, close) -> None:
    given = batch([0, 17, 150], 2, 1, dtype, device)
    out = decode_attention(*given, scale=0.2, window=window, splits=splits)
    close(out, reference(*given.double(), scale=0.2, window=window))


@pytest.mark.parametrize(("architecture", "splits"), [(90, 2), (80, 1)], ids=["native", "bits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_cache_of_e4m3(
    splits: int, dtype: torch.dtype, architecture: int, device: str, close, monkeypatch
) -> None:
    monkeypatch.setattr(module, "architecture", lambda device: architecture)
    given = batch([1, 100], 4, 2, dtype, device, cache_dtype=E4M3)
    scales = {"scale": 0.2, "k_scale": 0.7, "v_scale": 3.0}
    out = decode_attention(*given, **scales, splits=splits)
    close(out, reference(*given.double(), **scales))


@pytest.mark.parametrize(("block_size", "head_dim"), [(1, 64), (48, 80), (128, 32)])
def test_any_block_size_and_head(block_size: int, head_dim: int, device: str, close) -> None:
    given = batch([70, 63], 4, 2, torch.float32, device, block_size=block_size, head_dim=head_dim)
    out = decode_attention(*given, scale=0.2, splits=2)
    close(out, reference(*given.double(), scale=0.2))


@pytest.mark.parametrize("splits", [1, 2])
def test_large_scores_do_not_overflow(splits: int, device: str, close) -> None:
    given = batch([90], 2, 1, torch.float32, device)
    out = decode_attention(*given, scale=40.0, splits=splits)
    close(out, reference(*given.double(), scale=40.0))


def test_the_reference_is_attention() -> None:
    given = batch([37], 4, 2, torch.float64, "cpu")
    slots = (given.block_table[0, :, None].long() * 16 + torch.arange(16)).flatten()[:37]
    k, v = (c.flatten(0, 1)[slots].transpose(0, 1) for c in given[1:3])
    q = given.q[0][:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], scale=0.3, enable_gqa=True
    )[0, :, 0]
    torch.testing.assert_close(reference(*given, scale=0.3)[0], expected)
    last = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None, :, -5:], v[None, :, -5:], scale=0.3, enable_gqa=True
    )[0, :, 0]
    torch.testing.assert_close(reference(*given, scale=0.3, window=5)[0], last)


def test_heads_of_a_wider_tensor_an_interleaved_cache_and_no_sequences(device: str, close) -> None:
    given = batch([40, 3], 4, 2, torch.float32, device)
    both = torch.stack([given.k_cache, given.v_cache], 1)
    wide = torch.cat([given.q, given.q], 1)
    out = decode_attention(wide[:, 4:], both[:, 0], both[:, 1], *given[3:], scale=0.2, splits=1)
    close(out, reference(*given.double(), scale=0.2))
    none = [given.q[:0], *given[1:3], given.block_table[:0], given.lengths[:0]]
    assert decode_attention(*none, scale=0.2).shape == (0, 4, 64)


def test_shapes_that_do_not_fit_are_refused(device: str) -> None:
    given = batch([3], 3, 2, torch.float32, device)
    with pytest.raises(ValueError, match="3 heads are no multiple of the cache's 2 kv heads"):
        decode_attention(*given, scale=1.0)
    with pytest.raises(ValueError, match="q has head dimension 32, the cache 64"):
        decode_attention(given.q[:, :2, :32], *given[1:], scale=1.0)
    strided = torch.stack([given.v_cache, given.v_cache], 1)[:, 0]
    with pytest.raises(ValueError, match="differ in strides"):
        decode_attention(given.q[:, :2], given.k_cache, strided, *given[3:], scale=1.0)


def test_splits_fill_the_device_and_keep_four_iterations() -> None:
    cpu = torch.device("cpu")  # counts as 8 multiprocessors
    assert default_splits(cpu, programs=2, longest=10**6, keys=64) == 8
    assert default_splits(cpu, programs=2, longest=1024, keys=64) == 4
    assert default_splits(cpu, programs=100, longest=10**6, keys=64) == 1
    assert default_splits(cpu, programs=0, longest=10, keys=64) == 1


def test_work_reads_each_visible_key_once() -> None:
    one = work([10, 5, 0], heads=8, kv_heads=2, head_dim=64)
    assert one.flops == 4 * 15 * 8 * 64
    assert one.bytes == 2 * (2 * 15 * 2 * 64 + 2 * 3 * 8 * 64)
    assert work([10, 5], 8, 2, 64, window=6).flops == 4 * 11 * 8 * 64
    assert work([10], 8, 2, 64, kv_bytes=1).bytes == 2 * 10 * 2 * 64 + 2 * 2 * 8 * 64


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("window", [0, 1024])
def test_real_sizes(dtype: torch.dtype, head_dim: int, window: int, close) -> None:
    lengths = [1, 4096, 0, 777, 8191, 15, 64]
    given = batch(lengths, 32, 8, dtype, "cuda", head_dim=head_dim)
    out = decode_attention(*given, scale=head_dim**-0.5, window=window)
    close(out, reference(*given.double(), scale=head_dim**-0.5, window=window))


@pytest.mark.gpu
def test_a_graph_replays_with_other_lengths(close) -> None:
    given = batch([5000, 100], 32, 8, torch.bfloat16, "cuda", head_dim=128)
    decode_attention(*given, scale=0.1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(*given, scale=0.1)
    given.lengths.copy_(torch.tensor([3333, 0]))
    graph.replay()
    close(out, reference(*given.double(), scale=0.1))


@pytest.mark.gpu
def test_a_cache_of_more_than_2_31_elements(close) -> None:
    blocks = 2**31 // (16 * 8 * 128) + 8
    k_cache, v_cache = torch.empty(2, blocks, 16, 8, 128, device="cuda", dtype=torch.bfloat16)
    for cache in (k_cache, v_cache):
        cache[-4:] = torch.randn(4, 16, 8, 128, device="cuda", dtype=torch.bfloat16)
    q = torch.randn(1, 32, 128, device="cuda", dtype=torch.bfloat16)
    lengths = torch.tensor([60], dtype=torch.int32, device="cuda")
    table = torch.arange(blocks - 4, blocks, dtype=torch.int32, device="cuda")[None]
    out = decode_attention(q, k_cache, v_cache, table, lengths, scale=0.1)
    near = torch.arange(4, dtype=torch.int32, device="cuda")[None]
    last = (k_cache[-4:].double(), v_cache[-4:].double())
    close(out, reference(q.double(), *last, near, lengths, scale=0.1))
