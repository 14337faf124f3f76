"""What prompts say, without tokens: content ids, chains, and how far two prompts agree."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Hashable, Iterable

from ...policies.types import MultiModalItem, Segment

BLOCK_INDEX_BITS = 32  #: a block's key is its link, shifted, with its index below


class Contents:
    """Numbers texts: equal keys get equal ids, in order of first use."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, int] = {}
        self._keys: list[Hashable] = []  # of the ids that were asked for, and all before them

    def id(self, *key: Hashable) -> int:
        """The content id of the text that *key* names, e.g. ``id("system", 3)``."""
        return self._ids.setdefault(key, len(self._ids))

    def key(self, content: int) -> Hashable:
        """What names the text with this id: the same in every run, when ids are in order of use."""
        if content >= len(self._keys):
            self._keys.extend(itertools.islice(self._ids, len(self._keys), None))
        return self._keys[content]


class Chains:
    """Interns prefix identities, the way vLLM chains block hashes (`v1/core/kv_cache_utils.py`).

    A *link* stands for everything before a segment and the segment's own text. So the first p
    tokens of two prompts are equal exactly when their links at token p-1 are equal, and a
    prefix is one small integer however long it is.
    """

    def __init__(self) -> None:
        self._links: dict[tuple[int, int, int, int], int] = {}
        self._roots: dict[tuple[str, str, str], int] = {}

    def root(self, model: str, lora: str, salt: str) -> int:
        """Namespace of a prompt: KV is never shared across models, adapters or salts."""
        return self._roots.setdefault((model, lora, salt), -1 - len(self._roots))

    def link(self, previous: int, content: int, shift: int, start: int) -> int:
        """The link of a run at prompt position *start*, offset *start* + *shift* of its text.

        The start is part of it: 0-4 then 7-8 of a text, and 0-5 then 8-9, agree in shift.
        """
        return self._links.setdefault((previous, content, shift, start), len(self._links))

    def chain(
        self,
        prompt: Iterable[Segment],
        *,
        model: str = "",
        lora: str = "",
        salt: str = "",
        items: tuple[MultiModalItem, ...] = (),
    ) -> Chain:
        """The chain of a prompt; its answer is added with `Chain.append`."""
        chain = Chain(self, self.root(model, lora, salt))
        if not items:
            for content, offset, tokens, _ in prompt:
                chain.append(content, offset, tokens)
            return chain
        for (content, offset, tokens, _), media in _with_items(prompt, items):
            if media:
                chain.media.append((chain.tokens, chain.tokens + tokens))
            chain.append(content, offset, tokens)
        return chain


class Chain:
    """One prompt (and its answer so far) as links.

    `starts[i]` is the first token of run i, `links[i]` its identity; adjoining runs of one text
    are one run, so that two ways of cutting the same tokens give the same chain. `media` are the
    ranges [start, end) of tokens that stand for images, clips and sounds, in order.
    """

    __slots__ = ("_chains", "_last", "links", "media", "root", "starts", "tokens")

    def __init__(self, chains: Chains, root: int) -> None:
        self._chains, self.root = chains, root
        self.starts: list[int] = []
        self.links: list[int] = []
        self.media: list[tuple[int, int]] = []
        self.tokens = 0
        self._last = (-1, 0)

    def append(self, content: int, offset: int, tokens: int) -> None:
        """Add a run; *tokens* may be 0 (the answer that is about to grow)."""
        start = self.tokens
        run = (content, offset - start)
        if run != self._last:
            links, starts = self.links, self.starts
            if starts and starts[-1] == start:
                raise ValueError("an empty run can only be the last of a chain")
            previous = links[-1] if links else self.root
            links.append(self._chains.link(previous, content, offset - start, start))
            starts.append(start)
            self._last = run
        self.tokens = start + tokens

    def link_at(self, token: int) -> int:
        """The identity of the prefix that ends with token number *token*."""
        return self.links[bisect_right(self.starts, token) - 1]

    def media_tokens(self, first: int, last: int) -> int:
        """How many of tokens *first*..*last*-1 stand for images, clips and sounds."""
        if not self.media:
            return 0
        return sum(max(0, min(end, last) - max(start, first)) for start, end in self.media)

    def block_keys(self, first: int, last: int, block_size: int) -> list[int]:
        """Identities of blocks first..last-1: the link at the block's end, and its index."""
        keys: list[int] = []
        starts, links = self.starts, self.links
        run = bisect_right(starts, (first + 1) * block_size - 1) - 1 if first < last else 0
        while first < last:
            # the last block whose final token still lies in this run
            end = last if run + 1 == len(starts) else min(last, starts[run + 1] // block_size)
            if first < end:
                base = links[run] << BLOCK_INDEX_BITS
                keys.extend(range(base | first, base + end))
                first = end
            run += 1
        return keys

    def agrees(self, other: Chain, limit: int) -> int:
        """How many of the first *limit* tokens the two chains share."""
        mine, theirs = self.links, other.links
        low, high = 0, min(len(mine), len(theirs))
        while low < high:
            middle = (low + high) // 2
            if mine[middle] == theirs[middle]:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return 0
        mine_end = self.starts[low] if low < len(mine) else limit
        their_end = other.starts[low] if low < len(theirs) else limit
        return min(mine_end, their_end, limit)


def _with_items(
    prompt: Iterable[Segment], items: tuple[MultiModalItem, ...]
) -> list[tuple[Segment, bool]]:
    """Cut the prompt where items begin and end, and make the item part of the content there.

    Each piece comes with whether it belongs to an item.

    vLLM adds (identifier, offset within the block) to the hash of every block that an item
    overlaps; a content of its own says the same, since positions are part of a link.
    """
    pieces: list[tuple[Segment, bool]] = []
    start = 0
    for content, offset, tokens, label in prompt:
        edges = {0, tokens}
        for item in items:
            edges |= {
                edge - start
                for edge in (item.offset, item.offset + item.tokens)
                if 0 < edge - start < tokens
            }
        cuts = sorted(edges)
        for low, high in itertools.pairwise(cuts):
            inside = next((i for i in items if i.offset <= start + low < i.offset + i.tokens), None)
            # -1 - … keeps (item, text) pairs apart from plain texts, which are not negative
            name = content if inside is None else -1 - _pair(inside.identifier, content)
            piece = Segment(name, offset + low, high - low, label)
            pieces.append((piece, inside is not None))
        start += tokens
    return pieces


def _pair(a: int, b: int) -> int:
    """Cantor's pairing: one natural number for two."""
    return (a + b) * (a + b + 1) // 2 + b
