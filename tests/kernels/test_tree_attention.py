"""Tree attention: ancestors and no others, chains as prefill, windows by depth, poisoned blocks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels import prefill_attention
from infersim.kernels.fp8_kv import E4M3
from infersim.kernels.tree_attention import reference, tree_attention, work

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: parents of the tokens of three trees, -1 for a root, and the tokens before each
TREES = [
    ([-1, 0, 0, 1, 1, 2, 5], 0),
    ([-1], 65),
    ([-1, -1, 0, 1, 1, 3, 0, 6, 7, 8, 9, 2], 20),
]


class Batch(NamedTuple):
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_table: torch.Tensor
    query_start: torch.Tensor
    lengths: torch.Tensor
    tree_mask: torch.Tensor

    def double(self) -> Batch:
        return Batch(*(x.double() for x in self[:3]), *self[3:])


def ancestors(parents: list[int], width: int) -> torch.Tensor:
    """[tokens, width] bool: a token's ancestors and itself."""
    mask = torch.zeros(len(parents), width, dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            mask[token] = mask[parent]
        mask[token, token] = True
    return mask


def batch(
    trees: list[tuple[list[int], int]],
    heads: int,
    kv_heads: int,
    dtype: torch.dtype,
    device: str,
    *,
    cache_dtype: torch.dtype | None = None,
    head_dim: int = 64,
) -> Batch:
    """Blocks of 16 in random order; those of no sequence, and slots past the end, hold NaN."""
    torch.manual_seed(heads)
    lengths = [len(parents) + prefix for parents, prefix in trees]
    each = -(-max(lengths) // 16)
    order = torch.randperm(len(trees) * each + 3, dtype=torch.int32)
    table = order[: len(trees) * each].reshape(len(trees), -1)
    caches = torch.full((2, order.numel() * 16, kv_heads, head_dim), torch.nan)
    for i, length in enumerate(lengths):
        slots = (table[i, :, None] * 16 + torch.arange(16)).flatten()[:length]
        caches[:, slots.long()] = torch.randn(2, length, kv_heads, head_dim)
    k_cache, v_cache = caches.unflatten(1, (-1, 16)).to(device, cache_dtype or dtype)
    sizes = [len(parents) for parents, _ in trees]
    mask = torch.cat([ancestors(parents, max(sizes)) for parents, _ in trees])
    return Batch(
        torch.randn(sum(sizes), heads, head_dim).to(device, dtype),
        k_cache,
        v_cache,
        table.to(device),
        torch.tensor([0, *sizes]).cumsum(0).int().to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
        mask.to(device),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(2, 2, 0), (7, 1, 12), (4, 1, 30)])
def test_it_is_the_reference(
    heads: int, kv_heads: int, window: int, dtype: torch.dtype, device: str, close
) -> None:
    given = batch(TREES, heads, kv_heads, dtype, device)
    out = tree_attention(*given, scale=0.2, window=window)
    assert out.dtype == dtype
    close(out, reference(*given.double(), scale=0.2, window=window))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_cache_of_e4m3(dtype: torch.dtype, device: str, close) -> None:
    given = batch(TREES, 4, 2, dtype, device, cache_dtype=E4M3)
    scales = {"scale": 0.2, "k_scale": 0.7, "v_scale": 3.0}
    out = tree_attention(*given, **scales)
    close(out, reference(*given.double(), **scales))


@pytest.mark.parametrize("window", [0, 20])
def test_chains_are_prefill(window: int, device: str, close) -> None:
    chains = [(list(range(-1, 18)), 31), (list(range(-1, 3)), 0)]
    given = batch(chains, 4, 2, torch.float32, device)
    expected = prefill_attention.reference(*given.double()[:6], scale=0.2, window=window)
    close(reference(*given.double(), scale=0.2, window=window).float(), expected)
    close(tree_attention(*given, scale=0.2, window=window), expected)


def test_a_path_of_the_tree_is_a_chunk_of_its_own() -> None:
    """Verifying a tree gives each token what decoding its path alone would give."""
    parents, prefix = TREES[2]
    given = batch([(parents, prefix)], 4, 2, torch.float64, "cpu")
    out = reference(*given, scale=0.2)
    slots = (given.block_table[0, :, None].long() * 16 + torch.arange(16)).flatten()
    path = [1, 3, 5]
    chosen = torch.cat([slots[:prefix], slots[[prefix + token for token in path]]])
    caches = [c.flatten(0, 1)[chosen][None] for c in given[1:3]]
    table, starts = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([0, len(path)])
    length = torch.tensor([prefix + len(path)])
    alone = prefill_attention.reference(given.q[path], *caches, table, starts, length, scale=0.2)
    torch.testing.assert_close(out[path], alone)


@pytest.mark.parametrize("window", [0, 12])
def test_a_token_that_sees_nothing_gives_zeros(window: int, device: str, close) -> None:
    given = batch(TREES, 4, 2, torch.float32, device)
    given.tree_mask[[0, 10]] = False  # without a prefix, and behind one of 20
    out = tree_attention(*given, scale=0.2, window=window)
    assert not out[0].any()
    close(out, reference(*given.double(), scale=0.2, window=window))


def test_masks_of_int8_and_no_tokens(device: str) -> None:
    given = batch(TREES, 4, 2, torch.float32, device)
    out = tree_attention(*given, scale=0.2)
    as_int8 = given._replace(tree_mask=given.tree_mask.to(torch.int8))
    assert torch.equal(tree_attention(*as_int8, scale=0.2), out)
    none = given._replace(q=given.q[:0], tree_mask=given.tree_mask[:0])
    assert tree_attention(*none, scale=0.2).shape == (0, 4, 64)


def test_a_window_that_cuts_trees_is_refused(device: str) -> None:
    given = batch(TREES, 4, 2, torch.float32, device)
    with pytest.raises(ValueError, match=r"window \(11\) is shorter than the widest tree \(12 "):
        tree_attention(*given, scale=0.2, window=11)


def test_work_reads_the_mask() -> None:
    one = work([(3, 10)], heads=8, kv_heads=2, head_dim=64)
    assert one.flops == 4 * 3 * 13 * 8 * 64
    assert one.bytes == 2 * (2 * 13 * 2 * 64 + 2 * 3 * 8 * 64) + 9


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_real_sizes(dtype: torch.dtype, head_dim: int, close) -> None:
    torch.manual_seed(0)
    trees = []
    for size, prefix in ((64, 4000), (1, 100), (33, 0), (60, 777)):
        parents = [int(torch.randint(-1, i, ())) if i else -1 for i in range(size)]
        trees.append((parents, prefix))
    given = batch(trees, 32, 8, dtype, "cuda", head_dim=head_dim)
    for window in (0, 1024):
        out = tree_attention(*given, scale=head_dim**-0.5, window=window)
        close(out, reference(*given.double(), scale=head_dim**-0.5, window=window))
