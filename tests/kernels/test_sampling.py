"""Sampling: greedy and ties, cuts of k and p, draws in proportion, odd vocabularies."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels.sampling import (
    greedy,
    greedy_reference,
    kept_tokens,
    reference,
    sample,
    work,
)

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Draw(NamedTuple):
    logits: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    uniform: torch.Tensor


def draw(
    logits: torch.Tensor,
    uniform: list[float],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Draw:
    """Every uniform on the same row of logits."""
    rows, device = len(uniform), logits.device
    return Draw(
        logits.expand(rows, -1),
        torch.full((rows,), temperature, device=device),
        torch.full((rows,), top_k, dtype=torch.int32, device=device),
        torch.full((rows,), top_p, device=device),
        torch.tensor(uniform, device=device),
    )


def shares(given: Draw) -> torch.Tensor:
    """[rows, vocabulary] float64: what each token's chance should be, by sorting."""
    x = given.logits.double() / given.temperature.double()[:, None]
    for row, k, p in zip(x, given.top_k.tolist(), given.top_p.tolist(), strict=True):
        if k:
            row[row < row.sort(descending=True).values[k - 1]] = float("-inf")
        ordered = row.softmax(-1).sort(descending=True).values
        reached = int((ordered.cumsum(-1) < p).sum()) if p < 1 else len(row) - 1
        row[row.softmax(-1) < ordered[min(reached, len(row) - 1)]] = float("-inf")
    return x.softmax(-1)


def assert_drawn(tokens: torch.Tensor, given: Draw) -> None:
    """Each token's share of [0, 1) holds its uniform, up to the rounding of fp32."""
    chance = shares(given)
    rows = torch.arange(len(tokens), device=tokens.device)
    above = chance.cumsum(-1)[rows, tokens]
    below = above - chance[rows, tokens]
    uniform = given.uniform.double()
    assert (chance[rows, tokens] > 0).all()
    assert (below - 1e-5 <= uniform).all()
    assert (uniform <= above + 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 256, 777, 5000])
def test_greedy_is_the_greatest_and_of_equal_ones_the_lowest(
    vocabulary: int, dtype: torch.dtype, device: str
) -> None:
    torch.manual_seed(vocabulary)
    logits = torch.randn(5, vocabulary).to(device, dtype)
    logits[2] = -3.0
    logits[3, :-1] = float("-inf")
    logits[4, vocabulary // 3] = logits[4, vocabulary // 2] = 9.0
    tokens = greedy(logits)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, greedy_reference(logits))
    assert tokens[2:].tolist() == [0, vocabulary - 1, vocabulary // 3]
    assert torch.equal(tokens[:2], logits[:2].argmax(-1))


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(30, torch.float32), (30, torch.float16), (30, torch.bfloat16), (5000, torch.float32)],
)
def test_draws_follow_the_kept_shares(vocabulary: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(vocabulary)
    given = Draw(
        (3 * torch.randn(4, vocabulary)).to(device, dtype),
        torch.tensor([1.0, 0.7, 1.3, 2.0], device=device),
        torch.tensor([0, 5, 0, 20], dtype=torch.int32, device=device),
        torch.tensor([1.0, 1.0, 0.8, 0.6], device=device),
        torch.tensor([0.37, 0.81, 0.05, 0.99], device=device),
    )
    tokens = sample(*given)
    assert_drawn(tokens, given)
    assert_drawn(reference(*given), given)
    assert torch.equal(tokens, reference(*given))


def test_ends_of_the_unit_interval(device: str) -> None:
    logits = torch.tensor([float("-inf"), 0.0, 1.0, 0.5, float("-inf")], device=device)
    given = draw(logits, [0.0, 1.0 - 2**-24])
    assert sample(*given).tolist() == reference(*given).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, 1.0, [0, 2]),  # equal logits stay together
        (2, 1.0, [0, 2]),
        (3, 1.0, [0, 1, 2]),
        (99, 1.0, [0, 1, 2, 3, 4]),
        (0, 0.0, [0, 2]),
        (0, 0.79, [0, 2]),
        (0, 0.9, [0, 1, 2]),
        (3, 0.9, [0, 1, 2]),
        (2, 0.9, [0, 2]),
    ],
)
def test_what_is_kept(top_k: int, top_p: float, kept: list[int], device: str) -> None:
    shares_of_tokens = torch.tensor([0.4, 0.12, 0.4, 0.05, 0.03], device=device)
    uniform = [0.0, 0.9999]
    given = draw(shares_of_tokens.log(), uniform, top_k=top_k, top_p=top_p)
    assert kept_tokens(*given[:4])[0].nonzero().flatten().tolist() == kept
    tokens = sample(*given).tolist()
    assert set(tokens) <= set(kept)
    assert (tokens[0], tokens[-1]) == (kept[0], kept[-1])
    assert tokens == reference(*given).tolist()


def test_temperature_zero_is_greedy_beside_rows_that_are_not(device: str) -> None:
    torch.manual_seed(0)
    given = draw(torch.randn(40, device=device), [0.999, 0.999])
    given.temperature[0] = 0.0
    tokens = sample(*given)
    assert tokens[0] == given.logits[0].argmax()
    assert tokens[1] != tokens[0]
    assert torch.equal(tokens, reference(*given))


def test_a_low_temperature_neither_overflows_nor_wanders(device: str) -> None:
    logits = torch.tensor([-1e4, 3.0, 2.0, 1e4, float("-inf")], device=device)
    given = draw(logits, [0.0, 0.5, 0.99], temperature=1e-3, top_p=0.9)
    assert sample(*given).tolist() == [3, 3, 3]


def test_signs_are_ordered_and_zeros_equal(device: str) -> None:
    logits = torch.tensor([-2.0, -0.0, -1.0, 0.0, -3.0], device=device)
    given = draw(logits, [0.0, 0.4, 0.6, 0.99], top_k=1)
    assert set(sample(*given).tolist()) == {1, 3}
    third = draw(logits, [0.0, 0.5, 0.6, 0.99], top_k=3)
    assert set(sample(*third).tolist()) == {1, 2, 3}


def test_rows_of_a_wider_tensor_and_no_rows(device: str) -> None:
    torch.manual_seed(0)
    wide = torch.randn(2, 90, device=device)
    assert torch.equal(greedy(wide[:, :50]), wide[:, :50].argmax(-1))
    given = draw(wide[0], [0.5])
    assert sample(*(x[:0] for x in given)).shape == (0,)
    assert greedy(wide[:0]).shape == (0,)


def test_work_reads_each_logit() -> None:
    assert work(3, 100).bytes == 3 * (100 * 4 + 8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (50, 1.0), (0, 0.9), (50, 0.9)])
def test_a_real_vocabulary(dtype: torch.dtype, top_k: int, top_p: float) -> None:
    torch.manual_seed(0)
    rows, vocabulary = 64, 151_936
    given = Draw(
        (3 * torch.randn(rows, vocabulary, device="cuda")).to(dtype),
        torch.full((rows,), 0.8, device="cuda"),
        torch.full((rows,), top_k, dtype=torch.int32, device="cuda"),
        torch.full((rows,), top_p, device="cuda"),
        torch.rand(rows, device="cuda"),
    )
    assert torch.equal(greedy(given.logits), greedy_reference(given.logits))
    assert_drawn(sample(*given), given)
    assert_drawn(reference(*given), given)
