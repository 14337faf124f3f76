"""KV in host memory: blocks go out and come back to others, and the host waits for none of it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the executor needs torch", exc_type=ImportError)

import torch

from infersim.calibrate.executor import tier
from infersim.calibrate.executor.kv import KVCache
from infersim.scenarios.catalog import load

CPU = torch.device("cpu")


@pytest.fixture
def kv() -> KVCache:
    made = KVCache(load.model("tiny"), 6, 4, dtype=torch.float32, device=CPU)
    torch.manual_seed(0)
    for one in (*made.keys, *made.values):
        one.copy_(torch.randn(one.shape))
    return made


def test_blocks_come_back_to_others(kv: KVCache) -> None:
    store = tier.TierStore(kv, 3, CPU)
    before = kv.read(torch.tensor([2, 5]))
    store.keep([(2, 1), (5, 0)])
    assert store.fetch([(1, 4), (0, 3)])()
    assert torch.equal(kv.read(torch.tensor([4, 3])), before)
    store.keep([(6, 2)])
    store.restore([(2, 1)])
    assert torch.equal(kv.read(torch.tensor([1])), kv.read(torch.tensor([6])))


def test_ids_go_to_the_device_without_a_wait(kv: KVCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that waits would hold the host up until all steps that are launched are computed."""
    waits = []

    class Staged:
        def __init__(self, array: object) -> None:
            self.tensor = torch.from_numpy(array)

        def to(self, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
            waits.append(not non_blocking)
            return self.tensor

    monkeypatch.setattr(tier, "staged", lambda array, device: Staged(array))
    tier.TierStore(kv, 3, CPU).keep([(2, 1)])
    assert waits == [False]
