"""Routing: the likeliest experts, their weights, ties, odd sizes."""

from __future__ import annotations

import pytest
import torch

from infersim.kernels.moe_route import reference, route, work

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("renormalize", [True, False], ids=["renormalized", "as softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 8, 2), (17, 6, 1), (19, 60, 3), (9, 128, 8)]
)
def test_it_is_the_reference(
    tokens: int,
    experts: int,
    top_k: int,
    dtype: torch.dtype,
    renormalize: bool,
    device: str,
    close,
) -> None:
    torch.manual_seed(experts)
    logits = (3 * torch.randn(tokens, experts)).to(device, dtype)
    weights, ids = route(logits, top_k, renormalize)
    expected, expected_ids = reference(logits.double(), top_k, renormalize)
    assert weights.dtype == torch.float32
    assert torch.equal(ids, expected_ids)  # also among equal logits, which bf16 makes
    assert (weights - expected).abs().max() < 1e-5
    close(weights, expected.double())


def test_by_hand(device: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0]], device=device).log()
    weights, ids = route(logits, 3, renormalize=False)
    assert ids.tolist() == [[1, 3, 2]]  # equal logits: the lower id first
    torch.testing.assert_close(weights.cpu(), torch.tensor([[3 / 9, 3 / 9, 2 / 9]]))
    weights, _ = route(logits, 3, renormalize=True)
    torch.testing.assert_close(weights.cpu(), torch.tensor([[3 / 8, 3 / 8, 2 / 8]]))


def test_experts_that_are_ruled_out(device: str) -> None:
    logits = torch.full((3, 12), -torch.inf, device=device)
    logits[:, 4], logits[:, 11] = 80.0, 81.0
    weights, ids = route(logits, 2)
    assert ids.tolist() == [[11, 4]] * 3
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(("experts", "top_k"), [(8, 0), (8, 9), (1025, 2)])
def test_what_cannot_be_chosen_is_refused(experts: int, top_k: int, device: str) -> None:
    with pytest.raises(ValueError, match=f"cannot choose {top_k} of {experts}"):
        route(torch.zeros(2, experts, device=device), top_k)


def test_no_tokens(device: str) -> None:
    weights, ids = route(torch.empty(0, 8, device=device), 2)
    assert weights.shape == ids.shape == (0, 2)


def test_work_is_bound_by_memory() -> None:
    assert work(tokens=4, experts=128, top_k=8, item_bytes=2).bytes == 4 * (256 + 64)


@pytest.mark.gpu
def test_a_long_prompt_on_256_experts() -> None:
    logits = torch.randn(8192, 256, device="cuda", dtype=torch.bfloat16)
    weights, ids = route(logits, 8)
    expected, expected_ids = reference(logits, 8)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights, expected)
