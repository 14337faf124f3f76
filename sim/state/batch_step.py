"""Prefills that are planned together before any of them takes KV, as SGLang's are."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from ...policies.errors import IllegalPlanError
from ...policies.scheduling.base import Found
from .connector import Remote
from .kv.face import Hit
from .kv.scratch import ScratchTree
from .sequence import Sequence
from .step import StepBuilder


class BatchStep(StepBuilder):
    """A `StepBuilder` that also holds prefixes first and admits later.

    See `policies.scheduling.base.Step` for what each call means to a policy.
    """

    _held: dict[Sequence, tuple[Hit | None, Remote]] | None = None  # None: nobody was held yet

    def lookup(self, seq: Sequence) -> int:
        """Tokens of a waiting request, all known ones counted, that are cached: used just now."""
        self._check_waiting(seq, "looked up")
        pool = self.replica.pool
        return seq.computed or pool.visit(seq, seq.known).blocks * pool.block_size

    def visit(self, seq: Sequence) -> Found | None:
        """As `prefix`; what is found was used just now."""
        prefix = self._prefix(seq, self.replica.pool.visit)
        if prefix is None:
            return None
        hit = self._prefixes[seq][0]
        idle = hit.idle * self.replica.limits.block_size if hit is not None else 0
        return Found(prefix.tokens, prefix.asynchronous, idle)

    def touch(self, seq: Sequence) -> None:
        """A request in line keeps its prefix young, where the index knows ages."""
        self.replica.pool.touch(seq)

    def scratch(self) -> ScratchTree:
        """An empty set of prompts."""
        return ScratchTree()

    def by_weight(self, seqs: Seq[Sequence]) -> list[int]:
        """Indices of waiting requests in dfs-weight order of the radix tree."""
        return self.replica.pool.by_weight(seqs)

    def index(self, seq: Sequence) -> None:
        """Put what a running request has computed by now in a radix tree."""
        self.replica.pool.checkpoint(seq, seq.computed_tokens)

    def owns(self, seq: Sequence) -> bool:
        """Whether a waiting request has KV of its own, which came from elsewhere."""
        return seq.blocks > 0

    def hold(self, seq: Sequence) -> None:
        """Hold the prefix that `visit` found; the request is admitted by `start` in this step."""
        self._left(seq, asynchronous=False)
        if self._held is None:
            self._held = {}
        self._held[seq] = self._prefixes[seq]
        hit = self._held[seq][0]
        if hit is not None and hit.blocks:
            self.replica.pool.acquire(seq, hit, hit.blocks)
            self._prefixes.clear()

    def make_room(self, blocks: int, *, each_decode: bool = False) -> None:
        """Let cached KV go until *blocks* blocks hold none, or no more of it may go.

        Args:
            each_decode: the same before every repetition of this step.
        """
        self.replica.pool.make_room(blocks)
        self.replica.decode_room = blocks if each_decode else 0

    def start(self, seq: Sequence, tokens: int) -> None:
        """Admit a held request and compute *tokens* of it; free KV must hold them."""
        replica = self.replica
        if not self._held or seq not in self._held:
            raise IllegalPlanError(f"{seq} cannot be started: hold it before")
        hit, remote = self._held.pop(seq)
        pool = replica.pool
        local = hit.blocks * pool.block_size if hit is not None else seq.computed
        first = local + remote.tokens
        if not 0 < tokens <= min(self.budget, seq.known - first):
            raise IllegalPlanError(
                f"{tokens} tokens of {seq}: {seq.known - first} are left to compute, "
                f"the step has {self.budget}"
            )
        if len(replica.running) >= replica.limits.max_num_seqs:
            raise IllegalPlanError(f"{seq} cannot be started: {len(replica.running)} are running")
        self._prefixes[seq] = (hit, remote)
        slots = self._slots(first + tokens)
        if slots > seq.blocks:
            pool.acquire(seq, None, slots)
        pool.commit(seq, min(first + tokens, seq.known))
        self._tell(seq, first)
        replica.leave_line(seq)
        resumed = seq.preemptions > 0
        replica.start(seq, first)
        if first + tokens < seq.known:
            replica.inflight_prefills[seq] = None
        self._record(seq, first, tokens, 0, resumed)

    def decodes(self) -> tuple[int, int]:
        """(running requests that decode now, KV blocks that their next tokens take)."""
        group = self.replica.group
        requests, blocks = group.size, group.growth(self.replica.step_index) if group.size else 0
        for seq in self.replica.explicit:
            if not seq.is_chunk and self.wanted(seq) > 0:
                requests += 1
                blocks += max(self._slots(seq.computed + 1) - seq.blocks, 0)
        return requests, blocks
