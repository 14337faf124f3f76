"""Bitmasks: every bit, rows by index, odd vocabularies, nothing else touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.kernels.token_bitmask import apply_bitmask, reference, work

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def packed(allowed: torch.Tensor) -> torch.Tensor:
    """[rows, vocabulary] bool as int32 words, the lowest bit first."""
    padded = torch.nn.functional.pad(allowed, (0, -allowed.shape[1] % 32)).unflatten(1, (-1, 32))
    words = (padded.long() << torch.arange(32, device=allowed.device)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def case(
    rows: list[int], total: int, vocabulary: int, dtype: torch.dtype, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, who is allowed in each mask, and the rows masks are for."""
    torch.manual_seed(vocabulary)
    logits = torch.randn(total, vocabulary).to(device, dtype)
    allowed = (torch.rand(len(rows), vocabulary) < 0.4).to(device)
    return logits, allowed, torch.tensor(rows, dtype=torch.int32, device=device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [32, 1, 33, 1000, 5003])
def test_forbidden_are_minus_inf_and_the_rest_is_kept(
    vocabulary: int, dtype: torch.dtype, device: str
) -> None:
    logits, allowed, rows = case([3, 0, -1], 4, vocabulary, dtype, device)
    expected = logits.clone()
    expected[3] = expected[3].masked_fill(~allowed[0], float("-inf"))
    expected[0] = expected[0].masked_fill(~allowed[1], float("-inf"))
    by_reference = logits.clone()
    apply_bitmask(logits, packed(allowed), rows)
    reference(by_reference, packed(allowed), rows)
    assert torch.equal(logits, expected)
    assert torch.equal(by_reference, expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 200), st.lists(st.booleans(), min_size=1, max_size=32))
def test_one_bit_is_one_token(vocabulary: int, bits: list[bool]) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    allowed = torch.tensor((bits * vocabulary)[:vocabulary], device=device)[None]
    logits = torch.zeros(1, vocabulary, device=device)
    apply_bitmask(logits, packed(allowed), torch.zeros(1, dtype=torch.int32, device=device))
    assert torch.equal(logits == 0.0, allowed)


def test_rows_of_a_wider_tensor_and_no_masks(device: str) -> None:
    wide = torch.zeros(2, 100, device=device)
    allowed = torch.zeros(1, 40, dtype=torch.bool, device=device)
    apply_bitmask(wide[:, :40], packed(allowed), torch.ones(1, dtype=torch.int32, device=device))
    assert torch.isinf(wide).nonzero().tolist() == [[1, i] for i in range(40)]
    apply_bitmask(wide, packed(allowed)[:0], torch.ones(0, dtype=torch.int32, device=device))


def test_work_reads_a_bit_and_writes_a_logit() -> None:
    assert work(3, 33).bytes == 3 * (33 * 4 + 2 * 4)


@pytest.mark.gpu
def test_a_real_vocabulary() -> None:
    rows = list(range(0, 256, 2))
    logits, allowed, index = case(rows, 256, 151_936, torch.float32, "cuda")
    expected = logits.clone()
    reference(expected, packed(allowed), index)
    apply_bitmask(logits, packed(allowed), index)
    assert torch.equal(logits, expected)
