"""mru, filo, slru, priority and tlru: single blocks, parameters, and on the hash-chain pool."""

from __future__ import annotations

from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.policies.registry import eviction
from infersim.policies.types import CachedBlock, Request, Segment
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.sequence import Sequence


def test_keys_order_blocks_as_sglang_orders_nodes() -> None:
    one = CachedBlock(1, 0, 1, hits=0, inserted=5, used=7, importance=2, reach=8, block_size=16)
    again = one._replace(key=2, hits=1, inserted=6, used=9, importance=3)
    for name, first in (("mru", again), ("filo", again), ("slru", one), ("priority", one)):
        policy = eviction.get(name)()
        ranked = sorted((one, again), key=lambda unit: policy.key(unit, None, 0))
        assert ranked[0] is first, name
    assert eviction.get("slru")(protected_threshold=3).key(again, None, 0) == (False,)


def test_tlru_gives_up_what_no_next_turn_needs() -> None:
    policy = eviction.get("tlru")(threshold=96, next_prompt_estimate=32)
    kept = 8 * 16 + 32 - 96  # of a prompt of 8 blocks of 16
    for position in range(8):
        unit = CachedBlock(position, position, 1, 0, 0, reach=8, block_size=16)
        assert policy.key(unit, None, 0) == (position * 16 < kept,)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("slru", {"protected_threshold": 0}),
        ("tlru", {"threshold": -1}),
        ("tlru", {"next_prompt_estimate": -4}),
    ],
)
def test_wrong_parameters_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(params))):
        eviction.get(name)(**params)


def survivors(name: str, **params: Any) -> list[int]:
    """Four prompts of two blocks fill a pool, the first is used again, two blocks are needed."""
    chains = Chains()
    pool = BlockPool(8, 2, eviction.get(name)(**params))
    seqs = []
    for number, priority in enumerate((0, 1, 3, 2)):
        prompt = (Segment(number, 0, 4),)
        request = Request(number, 0, prompt, 4, 1, 90 + number, priority=priority)
        seqs.append(Sequence(request, 1, chains.chain(prompt), 99))
    for seq in [*seqs, seqs[0]]:
        pool.acquire(seq, pool.match(seq, 4), 2)
        pool.commit(seq, 4)
        pool.release(seq)
    prompt = (Segment(9, 0, 4),)
    other = Sequence(Request(9, 0, prompt, 4, 1, 99), 1, chains.chain(prompt), 99)
    pool.acquire(other, None, 2)
    return [pool.match(seq, 4).blocks for seq in seqs]


def test_the_hash_chain_pool_evicts_by_them() -> None:
    assert survivors("lru") == [2, 0, 2, 2]
    assert survivors("mru") == [0, 2, 2, 2]
    assert survivors("filo") == [2, 2, 2, 0]
    assert survivors("slru") == [2, 0, 2, 2]
    assert survivors("priority") == [2, 2, 0, 2]
    assert survivors("tlru", threshold=2) == [2, 1, 1, 2]
