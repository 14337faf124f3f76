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
        request: what the cluster was asked · `max_tokens`, `items`, `lora`, `grammar`: its.
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
        is_chunk: its last step left known tokens uncomputed.
        base: step index minus computed tokens, while in the decode group; else None.
        entry_blocks: blocks held when it joined the group · `joined`: its first step there ·
            `fin`: the step that samples its last token.
        recomputed: positions lost to preemptions · `swapped_bytes`: copied to the host and back.
        hit_tokens, external_tokens: of its first admission.
    """

    # slots, because every turn of the engine reads these and Python finds them faster there
    __slots__ = (
        "__weakref__",
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
        "grammar",
        "held",
        "hit_tokens",
        "id",
        "in_flight",
        "inserted",
        "is_chunk",
        "items",
        "joined",
        "keys",
        "known",
        "last_token",
        "last_token_ps",
        "lora",
        "max_tokens",
        "node",
        "output_tokens",
        "placeholders",
        "preempted_ps",
        "preemptions",
        "promised_blocks",
        "prompt_tokens",
        "recomputed",
        "record",
        "replica",
        "request",
        "run_number",
        "scheduled_ps",
        "stale",
        "status",
        "swapped_bytes",
        "table",
    )

    def __init__(
        self, request: Request, output_tokens: int, chain: Chain, max_model_len: int
    ) -> None:
        self.request = request
        self.id = request.id
        self.prompt_tokens = self.known = prompt = request.prompt_tokens
        self.output_tokens = output_tokens
        self.max_tokens, self.items = request.max_tokens, request.items
        self.lora, self.grammar = request.lora, request.grammar
        limit = min(prompt + self.max_tokens, max_model_len)
        self.last_token = min(prompt + output_tokens, limit)
        self.ends_by_limit = prompt + output_tokens >= limit
        self.chain = chain
        self.table: list[int] = []
        self.status = WAITING
        self.computed = self.drafts = self.placeholders = self.in_flight = self.stale = 0
        self.is_chunk = self.held = False
        self.preemptions = self.recomputed = self.swapped_bytes = 0
        self.blocks = self.committed = self.inserted = self.promised_blocks = 0
        self.hit_tokens = self.external_tokens = self.entry_blocks = 0
        self.node: Any = None
        self.keys: tuple[int, list[int]] | None = None
        self.base: int | None = None
        self.joined = self.fin = self.run_number = -1
        self.preempted_ps = self.scheduled_ps = self.first_token_ps = self.last_token_ps = -1
        self.replica: Any = None
        self.record: Any = None

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
