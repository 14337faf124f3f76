"""Grouping rows: every row once, in order, in blocks of one group."""

from __future__ import annotations

import pytest
import torch

from infersim.kernels.row_groups import group_rows, reference, work

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize(
    ("rows", "groups", "block"), [(1, 1, 16), (8, 6, 4), (50, 3, 16), (1100, 5, 16), (3, 20, 16)]
)
def test_it_is_the_reference(rows: int, groups: int, block: int, device: str) -> None:
    ids = torch.randint(-1, groups, (rows,), dtype=torch.int32)
    found, group = group_rows(ids.to(device), groups, block)
    expected, expected_group = reference(ids, groups, block)
    assert torch.equal(group.cpu(), expected_group)
    used = int((expected_group >= 0).sum()) * block
    assert torch.equal(found.cpu()[:used], expected[:used])


def test_no_row_is_lost_or_repeated(device: str) -> None:
    ids = torch.tensor([2, -1, 2, 0, 2, -5, 0], dtype=torch.int32, device=device)
    rows, group = group_rows(ids, 4, 2)
    assert [r for r in rows.tolist() if r < 7] == [3, 6, 0, 2, 4]
    assert group.tolist() == [0, 2, 2, -1, -1, -1, -1]


def test_no_rows_make_no_blocks(device: str) -> None:
    rows, group = group_rows(torch.empty(0, dtype=torch.int32, device=device), 4, 16)
    assert rows.numel() == group.numel() == 0


def test_work_counts_ids_and_rows() -> None:
    assert work(10).bytes == 80


@pytest.mark.gpu
def test_a_long_prompt_on_128_experts() -> None:
    ids = torch.randint(0, 128, (65_536,), dtype=torch.int32, device="cuda")
    rows, group = group_rows(ids, 128, 64)
    expected, expected_group = reference(ids, 128, 64)
    assert torch.equal(group, expected_group)
    assert torch.equal(rows, expected)
