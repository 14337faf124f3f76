"""Prefill attention: ragged chunks over ragged prefixes, windows, fp8, poisoned blocks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels import prefill_attention as module
from infersim.kernels.fp8_kv import E4M3
from infersim.kernels.prefill_attention import prefill_attention, reference, visible_pairs, work

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: new tokens and tokens of the prefix
CHUNKS = [(17, 0), (0, 5), (1, 63), (40, 49)]


class Batch(NamedTuple):
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_table: torch.Tensor
    query_start: torch.Tensor
    lengths: torch.Tensor

    def double(self) -> Batch:
        return Batch(*(x.double() for x in self[:3]), *self[3:])


def batch(
    chunks: list[tuple[int, int]],
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
    lengths = [new + prefix for new, prefix in chunks]
    each = -(-max(lengths) // block_size)
    order = torch.randperm(len(chunks) * each + 3, dtype=torch.int32)
    table = order[: len(chunks) * each].reshape(len(chunks), -1)
    caches = torch.full((2, order.numel() * block_size, kv_heads, head_dim), torch.nan)
    for i, length in enumerate(lengths):
        slots = (table[i, :, None] * block_size + torch.arange(block_size)).flatten()[:length]
        caches[:, slots.long()] = torch.randn(2, length, kv_heads, head_dim)
    k_cache, v_cache = caches.unflatten(1, (-1, block_size)).to(device, cache_dtype or dtype)
    starts = torch.tensor([0, *(new for new, _ in chunks)]).cumsum(0).int()
    q = torch.randn(int(starts[-1]), heads, head_dim).to(device, dtype)
    count = torch.tensor(lengths, dtype=torch.int32, device=device)
    return Batch(q, k_cache, v_cache, table.to(device), starts.to(device), count)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (7, 1)])
def test_it_is_the_reference(
    heads: int, kv_heads: int, dtype: torch.dtype, device: str, close
) -> None:
    given = batch(CHUNKS, heads, kv_heads, dtype, device)
    out = prefill_attention(*given, scale=0.2)
    assert out.dtype == dtype
    close(out, reference(*given.double(), scale=0.2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [1, 17, 1000])
def test_windows(window: int, dtype: torch.dtype, device: str, close) -> None:
    given = batch([(40, 90), (5, 0)], 4, 1, dtype, device)
    out = prefill_attention(*given, scale=0.2, window=window)
    close(out, reference(*given.double(), scale=0.2, window=window))


@pytest.mark.parametrize("architecture", [90, 80], ids=["native", "bits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_cache_of_e4m3(
    dtype: torch.dtype, architecture: int, device: str, close, monkeypatch
) -> None:
    monkeypatch.setattr(module, "architecture", lambda device: architecture)
    given = batch([(20, 60), (3, 0)], 2, 1, dtype, device, cache_dtype=E4M3)
    scales = {"scale": 0.2, "k_scale": 0.7, "v_scale": 3.0}
    out = prefill_attention(*given, **scales)
    close(out, reference(*given.double(), **scales))


@pytest.mark.parametrize(("block_size", "head_dim"), [(1, 64), (48, 80), (128, 32)])
def test_any_block_size_and_head(block_size: int, head_dim: int, device: str, close) -> None:
    given = batch(
        [(9, 61), (17, 0)], 4, 2, torch.float32, device, block_size=block_size, head_dim=head_dim
    )
    close(prefill_attention(*given, scale=0.2), reference(*given.double(), scale=0.2))


def test_more_heads_in_a_group_than_rows_of_a_tile(device: str, close) -> None:
    given = batch([(3, 20)], 130, 1, torch.float32, device)
    close(prefill_attention(*given, scale=0.2), reference(*given.double(), scale=0.2))


def test_large_scores_do_not_overflow(device: str, close) -> None:
    given = batch([(5, 70)], 2, 1, torch.float32, device)
    out = prefill_attention(*given, scale=40.0)
    close(out, reference(*given.double(), scale=40.0))


def test_the_reference_is_causal_attention() -> None:
    given = batch([(23, 0)], 4, 2, torch.float64, "cpu")
    slots = (given.block_table[0, :, None].long() * 16 + torch.arange(16)).flatten()[:23]
    k, v = (c.flatten(0, 1)[slots].transpose(0, 1)[None] for c in given[1:3])
    q = given.q.transpose(0, 1)[None]
    attention = torch.nn.functional.scaled_dot_product_attention
    expected = attention(q, k, v, scale=0.3, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(reference(*given, scale=0.3), expected[0].transpose(0, 1))


def test_a_chunk_after_its_prefix_is_the_end_of_the_whole() -> None:
    whole = batch([(50, 0)], 2, 1, torch.float64, "cpu")
    for window in (0, 7):
        full = reference(*whole, scale=0.3, window=window)
        starts = torch.tensor([0, 8], dtype=torch.int32)
        tail = whole._replace(q=whole.q[42:], query_start=starts)
        torch.testing.assert_close(reference(*tail, scale=0.3, window=window), full[42:])


def test_heads_of_a_wider_tensor_an_interleaved_cache_and_no_tokens(device: str, close) -> None:
    given = batch([(5, 20), (8, 0)], 4, 2, torch.float32, device)
    both = torch.stack([given.k_cache, given.v_cache], 1)
    wide = torch.cat([given.q, given.q], 1)
    out = prefill_attention(wide[:, 4:], both[:, 0], both[:, 1], *given[3:], scale=0.2)
    close(out, reference(*given.double(), scale=0.2))
    assert prefill_attention(given.q[:0], *given[1:], scale=0.2).shape == (0, 4, 64)


def test_shapes_that_do_not_fit_are_refused(device: str) -> None:
    given = batch([(3, 0)], 3, 2, torch.float32, device)
    with pytest.raises(ValueError, match="3 heads are no multiple of the cache's 2 kv heads"):
        prefill_attention(*given, scale=1.0)
    fitting = batch([(3, 0)], 2, 2, torch.float32, device)
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match="is not positive"):
            prefill_attention(*fitting, scale=scale)


@pytest.mark.parametrize("window", [0, 1, 3, 9, 100])
@pytest.mark.parametrize("prefix", [0, 2, 3, 4, 10])
def test_pairs_are_counted_query_by_query(prefix: int, window: int) -> None:
    seen = [prefix + i + 1 for i in range(5)]
    counted = sum(min(keys, window) if window else keys for keys in seen)
    assert visible_pairs(5, prefix, window) == counted


def test_work_reads_keys_once_a_chunk() -> None:
    one = work([(3, 10), (2, 0)], heads=8, kv_heads=2, head_dim=64)
    assert one.flops == 4 * (11 + 12 + 13 + 1 + 2) * 8 * 64
    assert one.bytes == 2 * (2 * 15 * 2 * 64 + 2 * 5 * 8 * 64)
    assert work([(3, 10)], 8, 2, 64, window=4).bytes == 2 * (2 * 6 * 2 * 64 + 2 * 3 * 8 * 64)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("window", [0, 128])
def test_real_sizes(dtype: torch.dtype, head_dim: int, window: int, close) -> None:
    chunks = [(1024, 0), (1, 4000), (513, 777), (0, 9), (17, 15)]
    given = batch(chunks, 16, 4, dtype, "cuda", head_dim=head_dim)
    out = prefill_attention(*given, scale=head_dim**-0.5, window=window)
    close(out, reference(*given.double(), scale=head_dim**-0.5, window=window))


@pytest.mark.gpu
def test_a_cache_of_more_than_2_31_elements(close) -> None:
    blocks = 2**31 // (16 * 8 * 128) + 8
    k_cache, v_cache = torch.empty(2, blocks, 16, 8, 128, device="cuda", dtype=torch.bfloat16)
    for cache in (k_cache, v_cache):
        cache[-4:] = torch.randn(4, 16, 8, 128, device="cuda", dtype=torch.bfloat16)
    q = torch.randn(30, 32, 128, device="cuda", dtype=torch.bfloat16)
    sizes = torch.tensor([0, 30, 60], dtype=torch.int32, device="cuda")
    table = torch.arange(blocks - 4, blocks, dtype=torch.int32, device="cuda")[None]
    out = prefill_attention(q, k_cache, v_cache, table, sizes[:2], sizes[2:], scale=0.1)
    near = torch.arange(4, dtype=torch.int32, device="cuda")[None]
    last = (k_cache[-4:].double(), v_cache[-4:].double())
    close(out, reference(q.double(), *last, near, sizes[:2], sizes[2:], scale=0.1))
