"""Why a prompt's tokens were not in the cache."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from ...policies.types import Picoseconds, Request
from .content import Chain
from .sequence import Sequence

REASONS = ("never_seen", "evicted", "diverged", "elsewhere", "rounding")
_ZEROS = [0] * len(REASONS)


@dataclass(slots=True)
class Misses:
    """Tokens of one prompt by why they missed, what computing them cost, and where it began.

    Attributes:
        tokens, cost_ps: by reason, in the order of `REASONS`.
        first: label of the segment in which the first miss lies; "" for none.
    """

    tokens: list[int] = field(default_factory=_ZEROS.copy)
    cost_ps: list[Picoseconds] = field(default_factory=_ZEROS.copy)
    first: str = ""


class Seen:
    """Which prefixes a replica (or the cluster) has computed, ever.

    Attributes:
        ends: link -> the longest prefix computed that ends within it.
    """

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}

    def add(self, chain: Chain, tokens: int) -> None:
        """The first *tokens* of *chain* were computed."""
        ends, starts, links = self.ends, chain.starts, chain.links
        end = tokens
        for i in range(len(starts) - 1, -1, -1):
            start, link = starts[i], links[i]
            if start >= tokens:
                continue
            if ends.get(link, 0) >= end:
                return  # then all before it is known as well
            ends[link] = end
            end = start


class MissExplainer:
    """Explains misses for all replicas of a run.

    A token that missed is *evicted* when its prefix was computed on this replica before (it must
    have left since), *elsewhere* when only on another, *diverged* when its own text was computed
    before but behind another prefix, *rounding* when it was here but cannot be hit because only
    whole blocks are cached and one token is always computed, and else *never seen*.

    Args:
        block_sizes: tokens in a KV block, by replica.
    """

    def __init__(self, block_sizes: Seq[int]) -> None:
        self._here = [Seen() for _ in block_sizes]
        self._anywhere = Seen() if len(block_sizes) > 1 else None
        self._texts: dict[int, int] = {}  # content -> tokens of it ever computed
        self._block_sizes = block_sizes

    def computed(self, replica: int, seq: Sequence, tokens: int) -> None:
        """The first *tokens* of *seq* are in the replica's KV."""
        self._here[replica].add(seq.chain, tokens)
        if self._anywhere is not None:
            self._anywhere.add(seq.chain, tokens)
        texts = self._texts
        left = tokens
        for content, offset, length, _ in seq.request.prompt:
            end = offset + min(length, left)
            if texts.get(content, 0) < end:
                texts[content] = end
            left -= length
            if left <= 0:
                return
        texts[seq.request.output_content] = max(left, texts.get(seq.request.output_content, 0))

    def explain(
        self,
        replica: int,
        seq: Sequence,
        hit_tokens: int,
        cost: Callable[[int, int], Picoseconds],
    ) -> Misses:
        """Why the prompt tokens from *hit_tokens* on missed.

        Args:
            cost: ``cost(tokens, context_tokens)``, the time that computing them takes.
        """
        misses = Misses()
        request = seq.request
        prompt = seq.prompt_tokens
        if hit_tokens >= prompt:
            return misses
        here = self._reach(self._here[replica], seq.chain, hit_tokens, prompt)
        anywhere = here
        if self._anywhere is not None:
            anywhere = self._reach(self._anywhere, seq.chain, here, prompt)
        # what was here but fills no whole block that could have been hit
        whole = min(here, prompt - 1) // self._block_sizes[replica] * self._block_sizes[replica]
        at = hit_tokens
        if here > at:
            at = self._book(misses, 1 if whole > at else 4, at, here, cost)
        if anywhere > at:
            at = self._book(misses, 3, at, anywhere, cost)
        self._book_texts(misses, request, at, cost)
        misses.first = _label_at(request, hit_tokens)
        return misses

    def _reach(self, seen: Seen, chain: Chain, at: int, prompt: int) -> int:
        """How far the prefix that ends at *at* was computed before."""
        ends, starts, last = seen.ends, chain.starts, len(chain.starts) - 1
        for i, link in enumerate(chain.links):
            end = starts[i + 1] if i < last else prompt
            if end <= at:
                continue
            if starts[i] >= prompt:
                break
            reach = min(ends.get(link, 0), end, prompt)
            if reach > at:
                at = reach
            if reach < end:
                break
        return at

    def _book_texts(
        self,
        misses: Misses,
        request: Request,
        at: int,
        cost: Callable[[int, int], Picoseconds],
    ) -> None:
        start = 0
        for content, offset, length, _ in request.prompt:
            end = start + length
            if end > at:
                known = start + self._texts.get(content, 0) - offset
                diverged = min(end, known)
                if diverged > at:
                    at = self._book(misses, 2, at, diverged, cost)
                if end > at:
                    at = self._book(misses, 0, at, end, cost)
            start = end

    def _book(
        self,
        misses: Misses,
        reason: int,
        start: int,
        end: int,
        cost: Callable[[int, int], Picoseconds],
    ) -> int:
        misses.tokens[reason] += end - start
        misses.cost_ps[reason] += cost(end - start, start)
        return end


def _label_at(request: Request, position: int) -> str:
    for segment in request.prompt:
        if position < segment.tokens:
            return segment.label
        position -= segment.tokens
    return ""
