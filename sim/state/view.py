"""The requests of a replica, waiting and running, as policies see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import merge
from itertools import chain
from typing import Any

from ...policies.types import Picoseconds
from .config import EngineLimits
from .kv.face import KVPool
from .queue import WaitingQueue
from .sequence import Sequence, Status


class View:
    """Who waits and who runs. Implements `policies.scheduling.base.ReplicaView`.

    Args:
        limits: what the engine was started with.
        pool: its KV.
        make_queue: builds the waiting line (called three times: vLLM keeps one for KV holders, and
            its first engine one for those that were swapped out).
    """

    __slots__ = (
        "aside",
        "compiling",
        "deferred",
        "explicit",
        "holding",
        "limits",
        "pool",
        "running",
        "step_index",
        "swapped",
        "waiting",
    )

    def __init__(
        self, limits: EngineLimits, pool: KVPool, make_queue: Callable[[], WaitingQueue]
    ) -> None:
        self.limits, self.pool = limits, pool
        self.waiting = make_queue()
        self.holding = make_queue()  # waiting, but already owning KV
        self.swapped = make_queue()  # waiting, with KV in host memory
        self.aside: dict[Sequence, None] = {}  # put aside in the step being planned
        self.deferred: dict[Sequence, None] = {}  # put aside and not admitted since
        self.running: dict[Sequence, None] = {}
        self.explicit: dict[Sequence, None] = {}  # running, but not in the decode group
        self.compiling = 0  #: waiting requests whose grammar is not compiled yet
        self.step_index = 0

    @property
    def prefilling(self) -> list[Sequence]:
        """The part of `running` that does not simply decode, in order of admission."""
        return list(self.explicit)

    @property
    def waiting_count(self) -> int:
        """Requests outside the batch, those whose KV is on its way included."""
        return len(self.waiting) + len(self.holding) + len(self.swapped) + len(self.aside)

    @property
    def waiting_ready_count(self) -> int:
        """Those of them that were not put aside since they came."""
        return self.waiting_count - len(self.deferred)

    @property
    def swapped_count(self) -> int:
        """Waiting requests whose KV is in host memory."""
        return len(self.swapped)

    @property
    def line(self) -> Iterable[Sequence]:
        """The waiting requests, in the order of the line, but for those without their grammar."""
        found: Iterable[Sequence] = chain(self.holding, self.waiting)
        if self.swapped:
            found = chain(self.holding, merge(self.swapped, self.waiting, key=self.rank))
        if self.compiling:
            return (seq for seq in found if seq.status is not Status.COMPILING)
        return found

    @property
    def head(self) -> Sequence | None:
        """The first of the line; None: it is empty."""
        if self.holding:
            return self.holding.peek()
        if not self.swapped:
            return self.waiting.peek() if self.waiting else None
        swapped = self.swapped.peek()
        if not self.waiting:
            return swapped
        return min(swapped, self.waiting.peek(), key=self.rank)

    def rank(self, seq: Sequence) -> tuple[Any, ...]:
        """Where the order of the line puts a request: smallest first, ties by arrival."""
        return (*self.waiting.key(seq), seq.id)

    @property
    def decoding(self) -> bool:
        """Whether some running request has its whole prompt computed."""
        return len(self.running) > sum(seq.is_chunk for seq in self.explicit)

    @property
    def executed_steps(self) -> int:
        """Steps that computed something, so far."""
        return self.step_index

    @property
    def max_num_seqs(self) -> int:
        """Most sequences in the batch."""
        return self.limits.max_num_seqs

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return self.limits.max_num_batched_tokens

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus answer."""
        return self.limits.max_model_len

    @property
    def block_size(self) -> int:
        """Tokens in a KV block."""
        return self.limits.block_size

    @property
    def free_blocks(self) -> int:
        """KV blocks that no request holds, cached ones included."""
        return self.pool.free

    @property
    def total_blocks(self) -> int:
        """KV blocks of the replica."""
        return self.pool.total

    @property
    def prefix_caching(self) -> bool:
        """Whether prompts share KV."""
        return self.limits.prefix_caching

    # ---- the line -------------------------------------------------------------------------------

    def rank_again(self, now: Picoseconds) -> None:
        """Keys may have moved: with time, or as a policy says."""
        if self.waiting.dynamic:
            for line in (self.holding, self.waiting, self.swapped):
                line.refresh(now)

    def leave_line(self, seq: Sequence) -> None:
        """Take *seq* out of the waiting line it stands in."""
        for line in (self.holding, self.waiting, self.swapped):
            if line and line.peek() is seq:
                line.pop()
                return
        line = self.holding if any(other is seq for other in self.holding) else self.waiting
        if seq.status is Status.SWAPPED:
            line = self.swapped
        line.remove(seq)

    def put_aside_back(self) -> None:
        """Requests that a step passed over return to the front, those that own KV apart."""
        owners: list[Sequence] = []
        swapped: list[Sequence] = []
        others: list[Sequence] = []
        for seq in self.aside:
            if seq.status is Status.SWAPPED:
                swapped.append(seq)
            else:
                owns = seq.computed or seq.status is Status.LOADING
                (owners if owns else others).append(seq)
        self.aside = {}
        self.holding.put_aside_back(owners)
        self.swapped.put_aside_back(swapped)
        self.waiting.put_aside_back(others)
