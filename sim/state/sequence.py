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
        table: block ids (block pool) · `node`: leaf of its path (extent pool).
        run_number: order of admission to the batch, for ties.
    """

    __slots__ = (
        "base",
        "blocks",
        "chain",
        "committed",
        "computed",
        "drafts",
        "ends_by_limit",
        "entry_blocks",
        "external_tokens",
        "fin",
        "first_token_ps",
        "hit_tokens",
        "id",
        "in_flight",
        "is_chunk",
        "joined",
        "known",
        "last_token",
        "last_token_ps",
        "node",
        "output_tokens",
        "placeholders",
        "preemptions",
        "prompt_tokens",
        "recomputed",
        "record",
        "replica",
        "request",
        "run_number",
        "scheduled_ps",
        "stale",
        "status",
        "table",
    )

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
        self.computed = 0
        self.drafts = self.placeholders = self.in_flight = self.stale = 0
        self.is_chunk = False  # its last step left known tokens uncomputed
        self.preemptions = 0
        self.status = Status.WAITING
        self.blocks = self.committed = 0
        self.table: list[int] = []
        self.node: Any = None
        self.base: int | None = None  # while in the decode group
        self.entry_blocks = 0  # blocks held when it joined the group
        self.joined = -1  # first step in the group
        self.fin = -1  # step that samples its last token
        self.recomputed = 0  # positions lost to preemptions
        self.run_number = -1
        self.replica: Any = None
        self.hit_tokens = self.external_tokens = 0  # of its first admission
        self.scheduled_ps = self.first_token_ps = self.last_token_ps = -1
        self.record: Any = None

    @property
    def computed_tokens(self) -> int:
        """KV positions scheduled so far, optimistic while a step is in flight."""
        return self.computed if self.base is None else self.replica.step_index - self.base

    @property
    def known_tokens(self) -> int:
        """Prompt plus every token sampled so far."""
        return self.known if self.base is None else self.replica.known_in_group(self)

    def __repr__(self) -> str:
        return f"<Sequence {self.id} {self.status.name} {self.computed_tokens} computed>"
