"""modality-aware: traces worked by hand on both indexes, what a block is, and lru with one kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.policies.eviction.lru import Lru
from infersim.policies.eviction.modality_aware import MEDIA, TEXT, ModalityAware
from infersim.policies.types import CachedBlock, MultiModalItem, Request, Segment
from infersim.sim.state.content import Chains
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.kv.radix_pool import RadixPool
from infersim.sim.state.sequence import Sequence

SIZE = 4  #: tokens in a block
Pool = BlockPool | RadixPool
POOLS: dict[str, type[Pool]] = {"hash-chain": BlockPool, "radix": RadixPool}


class Lab:
    """Serves one request after the other: each is admitted, computed and ended."""

    def __init__(self, make: type[Pool], blocks: int, eviction: Any) -> None:
        self.chains, self.eviction = Chains(), eviction
        self.pool = make(blocks, SIZE, eviction)
        self.served = 0

    def sequence(self, name: int, image: int, text: int) -> Sequence:
        """An image of *image* tokens, then *text* tokens; *name* says which."""
        parts = [(500 + name, image), (name, text)]
        prompt = tuple(Segment(content, 0, tokens) for content, tokens in parts if tokens)
        items = (MultiModalItem(500 + name, 0, image),) if image else ()
        chain = self.chains.chain(prompt, items=items)
        request = Request(self.served, 0, prompt, image + text, 1, 10**6, items=items)
        return Sequence(request, 1, chain, 10**6)

    def serve(self, name: int, *, image: int = 0, text: int = 0) -> int:
        """How many blocks hit, of a prompt of so many blocks of each."""
        seq = self.sequence(name, image * SIZE, text * SIZE)
        self.served += 1
        hit = self.pool.visit(seq, seq.known)
        self.pool.acquire(seq, hit, -(-seq.known // SIZE))
        self.pool.commit(seq, seq.known)
        self.pool.checkpoint(seq, seq.known)
        self.pool.release(seq)
        self.pool.check()
        return hit.blocks

    def cached(self, name: int, *, image: int = 0, text: int = 0) -> int:
        """Blocks of that prompt that are there."""
        seq = self.sequence(name, image * SIZE, text * SIZE)
        return self.pool.match(seq, seq.known).blocks


@pytest.fixture(params=POOLS)
def make(request: pytest.FixtureRequest) -> type[Pool]:
    return POOLS[request.param]


def test_images_that_pass_by_leave_the_text_its_share(make: type[Pool]) -> None:
    """8 blocks: 2 texts of 2 and an image of 4 fill them, then images of 4 come, one by one.

    Room for the second is made half and half: the older text goes. From then on the images are
    over their half, each makes way for the next, and the younger text stays for good.
    """
    lab, plain = Lab(make, 8, ModalityAware(media_share=0.5)), Lab(make, 8, Lru())
    for one in (lab, plain):
        one.serve(1, text=2)
        one.serve(2, text=2)
        for name in range(3, 8):
            one.serve(name, image=4)
            assert one.cached(name, image=4) == 4
    assert (lab.cached(1, text=2), lab.cached(2, text=2)) == (0, 2)
    assert (plain.cached(1, text=2), plain.cached(2, text=2)) == (0, 0)


def test_the_pool_over_its_share_gives_and_in_it_the_oldest(make: type[Pool]) -> None:
    """10 blocks, 2 of them the images': 3 + 3 of images, 4 of text; 3 more of text."""
    lab = Lab(make, 10, ModalityAware(media_share=0.2))
    lab.serve(1, image=3)
    lab.serve(2, text=4)
    lab.serve(3, image=3)
    lab.serve(4, text=3)  # 6 of 10 are images'
    assert lab.cached(1, image=3) == 0
    assert (lab.cached(2, text=4), lab.cached(3, image=3)) == (4, 3)
    lab.serve(5, image=1)  # 3 of 10, still more than 2
    assert lab.cached(2, text=4) == 4
    assert lab.cached(3, image=3) == (2 if make is BlockPool else 0)


def test_a_share_is_no_limit_while_the_other_pool_has_nothing(make: type[Pool]) -> None:
    lab = Lab(make, 6, ModalityAware(media_share=0.1))
    lab.serve(1, image=6)
    assert lab.cached(1, image=6) == 6
    lab.serve(2, image=3)
    assert lab.cached(2, image=3) == 3


def test_an_image_and_the_question_behind_it_are_two_units(make: type[Pool]) -> None:
    """Each counts for its own pool, and on a tree the question can leave without the image."""
    lab = Lab(make, 6, ModalityAware(media_share=0.9))
    lab.serve(1, image=3, text=2)
    assert lab.eviction._blocks == [2, 3]
    lab.serve(2, text=2)  # 1 is blank; text has 2 of 5, and 10 % of it is its share
    assert lab.cached(1, image=3, text=2) == (4 if make is BlockPool else 3)
    lab.serve(2, text=2)
    assert sum(lab.eviction._blocks) == lab.pool.cached_idle


def unit(media_tokens: int, blocks: int = 2) -> CachedBlock:
    return CachedBlock(1, 0, blocks, 0, 0, block_size=SIZE, media_tokens=media_tokens)


def test_a_unit_is_what_most_of_it_is() -> None:
    policy = ModalityAware()
    assert [policy.key(unit(n), None, 0)[0] for n in (0, 3, 4, 8)] == [TEXT, TEXT, MEDIA, MEDIA]


def test_a_cut_moves_each_part_to_its_pool() -> None:
    policy = ModalityAware()
    policy.on_insert(unit(12, blocks=6), None)
    assert policy._blocks == [0, 6]
    policy.on_split(unit(12, blocks=3), unit(0, blocks=3))
    assert policy._blocks == [3, 3]
    policy.on_evict(unit(0, blocks=3))
    assert policy._blocks == [0, 3]


@pytest.mark.parametrize("caching", [True, False])
def test_the_index_knows_which_tokens_are_an_images(caching: bool) -> None:
    """An image over parts of two segments: 3 tokens before it, 6 of its own, 3 behind."""
    chains = Chains()
    prompt = (Segment(1, 0, 7), Segment(2, 0, 5))
    items = (MultiModalItem(9, 3, 6),)
    chain = chains.chain(prompt, items=items if caching else ())
    found = [chain.media_tokens(at, at + SIZE) for at in range(0, 12, SIZE)]
    assert found == ([1, 4, 1] if caching else [0, 0, 0])
    assert chain.media_tokens(0, 100) == (6 if caching else 0)


prompts = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=60)
@given(stream=prompts, blocks=st.integers(5, 12), share=st.sampled_from((0.01, 0.5, 0.99)))
def test_the_books_hold_and_one_kind_alone_is_lru(
    stream: list[tuple[int, int, int]], blocks: int, share: float
) -> None:
    for make in POOLS.values():
        mixed = Lab(make, blocks, ModalityAware(media_share=share))
        text, plain = Lab(make, blocks, ModalityAware(media_share=share)), Lab(make, blocks, Lru())
        for name, image, words in stream:
            for lab, size in ((mixed, image), (text, 0), (plain, 0)):
                seq = lab.sequence(name, size, words)
                hit = lab.pool.visit(seq, seq.known)
                lab.pool.acquire(seq, hit, -(-seq.known // SIZE))
                lab.pool.commit(seq, seq.known)
                lab.pool.checkpoint(seq, seq.known)
                lab.pool.release(seq)
            assert sum(mixed.eviction._blocks) == mixed.pool.cached_idle
            assert min(mixed.eviction._blocks) >= 0
        assert text.pool.evicted == plain.pool.evicted
        assert [text.cached(n, text=2) for n in range(5)] == [
            plain.cached(n, text=2) for n in range(5)
        ]


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, True, "half"])
def test_a_wrong_share_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="media_share of modality-aware"):
        ModalityAware(media_share=value)
