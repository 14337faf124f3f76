"""Who joins a prefill: SGLang's arithmetic of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

CLIP_NEW_TOKENS = 4096  #: answers are estimated no longer than this
SPARE_TOKENS = 1  #: kept per request where all answers have their full length


class Verdict(Enum):
    """Whether the next request may be looked at."""

    CONTINUE = "CONTINUE"
    NO_TOKEN = "NO_TOKEN"  # KV is short
    OTHER = "OTHER"  # the step is full


class Demand(NamedTuple):
    """What a request needs.

    Attributes:
        known: prompt and answer so far, tokens.
        prefix: of these, in KV already.
        max_new: longest answer.
        answered: tokens of it that are there.
        ignore_eos: it answers in full length.
        idle: tokens of the prefix that no request holds.
    """

    known: int
    prefix: int
    max_new: int
    answered: int
    ignore_eos: bool = False
    idle: int = 0


class Addition(NamedTuple):
    """What became of one request.

    Attributes:
        tokens: to compute now; 0: refused.
        chunked: more of the prompt is left.
        verdict: for the request after it; of a refused one, why.
    """

    tokens: int
    chunked: bool
    verdict: Verdict


class PrefillAdder:
    """The budgets of one prefill pass (full attention, one tier of KV).

    Method: sglang 0.5.23 `managers/schedule_policy.py PrefillAdder`, `mem_cache/prefill_budget.py`;
    it decides as recorded (`infersim conform`).

    Args:
        page_size: tokens of a KV block.
        free: tokens of KV that no request holds, cached ones included, whenever asked.
        running: requests in the batch that decode.
        ratio: share of their remaining answers to set aside.
        input_tokens: SGLang's max_prefill_tokens.
        chunk_tokens: SGLang's chunked_prefill_size; None: prompts are not cut.
        decodes: requests that decode in the same step (mixed chunk).
        most: requests of the pass, at most; None: no limit.
        one_chunked: refuse to cut a prompt while another is cut (shortest-prefill-first).
    """

    def __init__(
        self,
        page_size: int,
        free: Callable[[], int],
        running: Iterable[Demand],
        *,
        ratio: float,
        input_tokens: int,
        chunk_tokens: int | None,
        decodes: int = 0,
        most: int | None = None,
        one_chunked: bool = False,
    ) -> None:
        self._page, self._free, self._ratio = page_size, free, ratio
        self._running, self._most, self._one_chunked = list(running), most, one_chunked
        self.input_left = input_tokens - decodes
        self.chunk_left = None if chunk_tokens is None else chunk_tokens - decodes
        self._now = decodes
        self._ahead: float = decodes + sum([self._aside(one) for one in self._running])
        self._added: list[Demand] = []
        self._states: list[tuple[float, int]] | None = None

    def _aside(self, one: Demand) -> float:
        ratio = 1.0 if one.ignore_eos else self._ratio
        return min(one.max_new - one.answered, CLIP_NEW_TOKENS) * ratio

    @property
    def total_left(self) -> float:
        """KV tokens left when all that is admitted answers as estimated."""
        return self._free() - self._ahead

    @property
    def current_left(self) -> float:
        """KV tokens left when all that is admitted is computed."""
        return self._free() - self._now

    @property
    def added(self) -> int:
        """Requests of the pass so far."""
        return len(self._added)

    def verdict(self) -> Verdict:
        """Whether another request may be looked at."""
        if self.total_left <= 0 or self.current_left <= 0:
            return Verdict.NO_TOKEN
        if self.input_left <= 0 or (self.chunk_left is not None and self.chunk_left <= 0):
            return Verdict.OTHER
        return Verdict.CONTINUE

    def go_on(self, one: Demand, limit: int | None = None) -> Addition:
        """The next chunk of a prompt that was cut before, or that has its blocks; never refused.

        Args:
            limit: tokens at most, so that shorter prompts find room.
        """
        left = one.known - one.prefix
        chunk = left if self.chunk_left is None else self.chunk_left
        room = min(chunk, int(self.total_left))
        room = room if room > 0 else chunk
        tokens = min(left, room if limit is None else min(room, limit))
        chunked = tokens < left
        self._charge(tokens, 0 if chunked else min(one.max_new, CLIP_NEW_TOKENS))
        self._added.append(one)
        return Addition(tokens, chunked, self.verdict())

    def add(
        self, one: Demand, hold: Callable[[], object], *, has_chunked: bool, cached: bool = True
    ) -> Addition:
        """Admit a waiting request, or refuse it.

        Args:
            hold: called when it is admitted: its prefix stops being anybody's.
            has_chunked: another prompt is cut already.
            cached: there is a prefix cache.
        """
        if self._most is not None and self.added >= self._most:
            return Addition(0, False, Verdict.OTHER)
        if one.ignore_eos and not cached:
            return self._add_exactly(one, hold)
        if not self.outlives(one):
            return Addition(0, False, Verdict.NO_TOKEN)
        extend = one.known - one.prefix
        pages = self._whole(extend)
        if self.chunk_left is None and self._added and pages >= self.input_left:
            return Addition(0, False, Verdict.OTHER)
        if self.chunk_left is None or pages <= self.chunk_left:
            return self._admit(one, extend, False, hold)
        if has_chunked and self._one_chunked:
            return Addition(0, False, Verdict.OTHER)
        cut = self.chunk_left // self._page * self._page
        cut = (one.prefix + cut) // self._page * self._page - one.prefix
        if cut <= 0:
            return Addition(0, False, Verdict.OTHER)
        return self._admit(one, cut, True, hold)

    def outlives(self, one: Demand) -> bool:
        """Whether KV holds a request and its answer as estimated."""
        answer = min(max(one.max_new - one.answered, 0), CLIP_NEW_TOKENS)
        return one.known - one.prefix + answer + self._page < self.total_left - one.idle

    def expect(self, one: Demand) -> None:
        """Set the answer of a request aside whose prompt has its KV already."""
        self._ahead += min(one.max_new, CLIP_NEW_TOKENS) + self._page

    def _admit(
        self, one: Demand, tokens: int, chunked: bool, hold: Callable[[], object]
    ) -> Addition:
        hold()
        self._added.append(one)
        self._charge(tokens, 0 if chunked else min(one.max_new, CLIP_NEW_TOKENS))
        return Addition(tokens, chunked, self.verdict())

    def _charge(self, tokens: int, answer: int) -> None:
        pages = self._whole(tokens)
        self._ahead += pages + self._page + answer
        self._now += pages + self._page
        self.input_left -= pages
        if self.chunk_left is not None:
            self.chunk_left -= pages

    def _whole(self, tokens: int) -> int:
        return -(-tokens // self._page) * self._page

    # ---- answers of known length, no cache: memory is simulated ---------------------------------

    def _add_exactly(self, one: Demand, hold: Callable[[], object]) -> Addition:
        extend = one.known - one.prefix
        need = self._whole(extend) + self._page
        if need > min(self.current_left, self.total_left) or not self._outlasts(one, need):
            return Addition(0, False, Verdict.NO_TOKEN)
        if self.chunk_left is None or extend <= self.chunk_left:
            return self._admit(one, extend, False, hold)
        if self.chunk_left <= 0:
            return Addition(0, False, Verdict.OTHER)
        return self._admit(one, self.chunk_left, True, hold)

    def _outlasts(self, one: Demand, need: int) -> bool:
        """Whether KV suffices at every moment at which a request ends and frees its own."""
        if self._states is None:
            everyone = [one, *self._running, *self._added]
            states = [state for each in everyone if (state := self._state(each))[0] > 0]
            states.sort(key=lambda state: state[0])
            self._states = states
        elif (state := self._state(one))[0] > 0:
            self._states.insert(self._place(state[0]), state)
        room, freed = self.current_left - need, 0
        for i, (left, held) in enumerate(self._states):
            requests = len(self._states) - i
            if room + freed - left * requests <= SPARE_TOKENS * requests:
                return False
            freed += held
        return True

    def _state(self, one: Demand) -> tuple[float, int]:
        """Tokens it will still answer, and tokens that its end frees."""
        ratio = 1.0 if one.ignore_eos else self._ratio
        return one.max_new * ratio - one.answered, one.known

    def _place(self, left: float) -> int:
        """Before the first with no less left; SGLang puts one behind all before the last."""
        assert self._states is not None
        found = 0
        for found, (other, _) in enumerate(self._states):  # noqa: B007
            if left <= other:
                break
        return found
