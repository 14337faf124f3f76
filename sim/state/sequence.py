"""One request in flight on one replica."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from ...policies.types import Request
from .content import Chain


class Status(IntEnum):
    """Where a sequence is in its life on a replica."""

    WAITING = 0
    LOADING = 1  # its KV is on the way; it owns blocks but no place in the batch
    RUNNING = 2
    PREEMPTED = 3
    FINISHED = 4
    SWAPPED = 5  # preempted, with its KV in host memory
    COMPILING = 6  # in line, and its grammar is not compiled yet


# looking a member up in its enum takes as long as all the rest of asking for a status
WAITING, LOADING, RUNNING, PREEMPTED, FINISHED, SWAPPED, COMPILING = Status


class Sequence:
    """A request, its progress and its KV.

    While it decodes in the replica's group (`base` is set) its progress is a function of the step
    index: ``computed = step - base``. `computed` and `known` below are then out of date; read
    `computed_tokens` and `known_tokens`, which policies do.

    Attributes:
        request: what the cluster was asked.
        output_tokens: how many tokens the model will answer with; the oracle boundary: no policy
            sees this object's field, only `SequenceView`.
        last_token: known tokens at which the answer ends, whatever ends it.
        ends_by_limit: True when the engine can foresee the end (max_tokens or context limit).
        chain: identity of the prompt and the answer, for the prefix index.
        known: prompt plus sampled tokens.
        computed: KV positions scheduled so far (optimistic).
        drafts: speculative tokens proposed for the next step.
        placeholders: sampled but not yet processed tokens (asynchronous scheduling).
        in_flight: tokens in steps that have not been processed.
        stale: the part of `in_flight` from before a preemption.
        blocks: KV blocks held; `committed` of them, from the first, are in the prefix index.
        inserted: blocks that it put in a radix tree since it was admitted.
        table: block ids (block pool) · `node`: leaf of its path (extent pool).
        keys: size and identities of its blocks, as far as they were asked for (block pool).
        promised_blocks: KV blocks that it may ever need, if it was promised them; else 0.
        held: it has taken them all and does not grow.
        run_number: order of admission to the batch, for ties.
    """

    # Most fields keep these values until something happens: a plain class attribute costs nothing.
    computed = 0
    drafts = placeholders = in_flight = stale = 0
    is_chunk = False  # its last step left known tokens uncomputed
    preemptions = 0
    status = Status.WAITING
    blocks = committed = inserted = 0
    promised_blocks = 0
    held = False
    node: Any = None
    keys: tuple[int, list[int]] | None = None
    base: int | None = None  # while in the decode group
    entry_blocks = 0  # blocks held when it joined the group
    joined = -1  # first step in the group
    fin = -1  # step that samples its last token
    recomputed = 0  # positions lost to preemptions
    swapped_bytes = 0  # copied to the host and back
    run_number = -1
    replica: Any = None
    hit_tokens = external_tokens = 0  # of its first admission
    preempted_ps = scheduled_ps = first_token_ps = last_token_ps = -1
    record: Any = None

    def __init__(
        self, request: Request, output_tokens: int, chain: Chain, max_model_len: int
    ) -> None:
        self.request = request
        self.id = request.id
        self.prompt_tokens = prompt = request.prompt_tokens
        self.output_tokens = output_tokens
        limit = min(prompt + request.max_tokens, max_model_len)
        self.last_token = min(prompt + output_tokens, limit)
        self.ends_by_limit = prompt + output_tokens >= limit
        self.chain = chain
        self.known = prompt
        self.table: list[int] = []

    @property
    def computed_tokens(self) -> int:
        """KV positions scheduled so far, optimistic while a step is in flight."""
        return self.computed if self.base is None else self.replica.step_index - self.base

    @property
    def known_tokens(self) -> int:
        """Prompt plus every token sampled so far."""
        if self.base is None:
            return self.known
        return self.computed_tokens + 1 - len(self.replica.in_flight)

    @property
    def is_waiting(self) -> bool:
        """Whether it is in line, not in the batch."""
        return self.status is not Status.RUNNING

    @property
    def queued_ps(self) -> int:
        """When it last joined the line: its arrival, or its last preemption."""
        return self.request.arrival_ps if self.preempted_ps < 0 else self.preempted_ps

    def __repr__(self) -> str:
        return f"<Sequence {self.id} {self.status.name} {self.computed_tokens} computed>"
