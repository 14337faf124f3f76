"""Blocks copied bit by bit: any type, odd sizes, blocks in any order, nothing else touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.kernels.block_copy import (
    copy_blocks,
    gather_blocks,
    gather_reference,
    reference,
    scatter_blocks,
    scatter_reference,
    work,
)

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8]


def blocks(count: int, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Random bits, NaN of every kind among them."""
    torch.manual_seed(count)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (count, *shape[:-1], shape[-1] * size), dtype=torch.uint8)
    return raw.view(dtype).to(device)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def ids(values: list[int], device: str) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(16, 2, 64), (3, 1, 5)], ids=["a block", "odd"])
def test_gather_scatter_and_copy(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    cache = blocks(9, shape, dtype, device)
    before = bits(cache).clone()
    taken = gather_blocks(cache, ids([7, 0, 3], device))
    assert torch.equal(bits(taken), before[[7, 0, 3]])
    assert torch.equal(bits(gather_reference(cache, ids([7, 0, 3], device))), bits(taken))

    scatter_blocks(cache, ids([1, 8, 2], device), taken)
    copy_blocks(cache, ids([[4, 5], [0, 6]], device).reshape(-1, 2))
    expected = before.clone()
    expected[[1, 8, 2]] = before[[7, 0, 3]]
    expected[5], expected[6] = before[4], before[0]
    assert torch.equal(bits(cache), expected)

    by_reference = before.clone().view(dtype)
    scatter_reference(by_reference, ids([1, 8, 2], device), taken)
    reference(by_reference, ids([[4, 5], [0, 6]], device))
    assert torch.equal(bits(by_reference), expected)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 3), st.integers(1, 40))
def test_any_copies_that_do_not_overlap(order: list[int], copies: int, width: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = blocks(7, (width,), torch.bfloat16, device)
    before = bits(cache).clone()
    pairs = [(order[2 * i], order[2 * i + 1]) for i in range(copies)]
    copy_blocks(cache, ids(pairs, device).reshape(-1, 2))
    for source, target in pairs:
        assert torch.equal(bits(cache)[target], before[source])
    rest = sorted(set(range(7)) - {target for _, target in pairs})
    assert torch.equal(bits(cache)[rest], before[rest])


def test_keys_of_an_interleaved_cache(device: str) -> None:
    """Blocks need not lie next to each other: here values lie between them."""
    cache = blocks(6, (2, 4, 8), torch.float16, device)
    before = bits(cache).clone()
    keys = cache[:, 0]
    copy_blocks(keys, ids([[5, 1]], device))
    before[1, 0] = before[5, 0]
    assert torch.equal(bits(cache), before)
    assert torch.equal(bits(gather_blocks(keys, ids([2], device))), before[[2], 0])


def test_a_block_in_pieces_is_refused(device: str) -> None:
    cache = torch.zeros(4, 6, 8, device=device).transpose(1, 2)
    with pytest.raises(RuntimeError, match="view"):
        copy_blocks(cache, ids([[0, 1]], device))


def test_work_reads_and_writes_each_block() -> None:
    assert work(3, 4096).bytes == 6 * 4096


@pytest.mark.gpu
def test_a_cache_of_more_than_2_31_elements() -> None:
    width = 16 * 8 * 128
    count = 2**31 // width + 8
    cache = torch.zeros(count, width, device="cuda", dtype=torch.bfloat16)
    cache[-1] = torch.randn(width, device="cuda")
    copy_blocks(cache, ids([[count - 1, count - 3], [0, 5]], "cuda"))
    assert torch.equal(cache[-3], cache[-1])
    assert torch.equal(gather_blocks(cache, ids([count - 1], "cuda"))[0], cache[-1])
    scatter_blocks(cache, ids([count - 2], "cuda"), cache[-1:])
    assert torch.equal(cache[-2], cache[-1])
