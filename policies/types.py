"""What a policy is shown and what it answers: the vocabulary that every host speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

Picoseconds: TypeAlias = int  #: the clock: integer picoseconds since the run began
RequestId: TypeAlias = int
ReplicaId: TypeAlias = int

PS_PER_S = 10**12


class Segment(NamedTuple):
    """A run of tokens named by what they say, never by token ids.

    Two runs are the same tokens exactly when content and offset are the same.

    Attributes:
        content: identity of a text (see `sim.state.content.Contents`).
        offset: first token of the run within that text.
        tokens: length of the run.
        label: what it is to a reader ("system", "tools", "user", "tool result"); not identity.
    """

    content: int
    offset: int
    tokens: int
    label: str = ""


class MultiModalItem(NamedTuple):
    """An image, clip or sound whose placeholder occupies part of the prompt.

    Attributes:
        identifier: equal for equal content; the encoder cache is shared by it.
        offset: first placeholder token in the prompt.
        tokens: length of the placeholder, and of the encoder's output.
    """

    identifier: int
    offset: int
    tokens: int


class Grammar(NamedTuple):
    """What an answer must look like: a JSON schema, a regular expression, a grammar.

    Attributes:
        key: equal for equal grammars; a replica compiles each once.
        compile_ps: what that takes, the first time.
    """

    key: int
    compile_ps: Picoseconds


class WorkflowHint(NamedTuple):
    """What an agent framework says with a call about the workflow that the call belongs to.

    The metadata of KVFlow (Pan et al., arXiv:2507.07400, 3.3): who calls, where the part of the
    prompt ends that the agent always sends, and how soon which agent may run again.

    Attributes:
        workflow: the run of a workflow, by which a later hint replaces an earlier one.
        agent: who calls; calls of one agent begin with the same fixed prompt.
        fixed_tokens: length of that fixed prompt.
        steps: (agent, steps until it may run next) of those that may run again, the caller's
            next run included: 0 may run now beside the caller, 1 runs in the next step.
    """

    workflow: int
    agent: str
    fixed_tokens: int
    steps: tuple[tuple[str, int], ...]


class Request(NamedTuple):
    """One request as the cluster sees it. What it will answer is not here.

    Attributes:
        id: order of arrival, from 0; every tie in the simulator ends in it.
        arrival_ps: when it reached the router.
        prompt: what it says, as segments.
        prompt_tokens: their sum.
        max_tokens: the cap on the answer that the client sent.
        output_content: content id under which the answer will be known.
        session: conversation or agent it belongs to; -1 for none.
        turn: how many calls of the session came before it.
        priority: smaller is served first, where a policy looks at it.
        kind: what made it ("agent", "subagent", "chat"), for reports.
        lora: adapter name; "" for none.
        salt: cache salt; "" for none. Equal prompts with unequal salts never share KV.
        tool_time_s: how long the client expects to be away after the answer (session-ttl);
            negative where it does not say.
        workflow: what an agent framework says of the workflow; None where there is none.
        grammar: which the answer follows (structured output); None: it is free.
    """

    id: RequestId
    arrival_ps: Picoseconds
    prompt: tuple[Segment, ...]
    prompt_tokens: int
    max_tokens: int
    output_content: int
    session: int = -1
    turn: int = 0
    priority: int = 0
    tenant: str = ""
    kind: str = ""
    model: str = ""
    lora: str = ""
    salt: str = ""
    items: tuple[MultiModalItem, ...] = ()
    tool_time_s: float = -1.0
    workflow: WorkflowHint | None = None
    grammar: Grammar | None = None


class SequenceView(Protocol):
    """A request in flight, read-only, as a scheduler, order or victim policy sees it."""

    @property
    def request(self) -> Request: ...
    @property
    def computed_tokens(self) -> int:
        """KV positions scheduled so far, optimistic while a step is in flight."""

    @property
    def known_tokens(self) -> int:
        """Prompt plus every token sampled so far."""

    @property
    def preemptions(self) -> int: ...
    @property
    def is_waiting(self) -> bool:
        """Whether it is in line, not in the batch."""

    @property
    def queued_ps(self) -> Picoseconds:
        """When it last joined the line: its arrival, or its last preemption."""

    @property
    def is_chunk(self) -> bool:
        """Whether its last step left known tokens uncomputed (it is in the middle of prefill)."""


class CachedBlock(NamedTuple):
    """A cached unit at the moment it becomes evictable: one block, or an extent of blocks.

    Attributes:
        key: opaque identity, stable while the unit is cached.
        position: index of its first block in the prompt it belongs to.
        blocks: how many blocks it spans.
        hits: how often a later request found it, since it entered the cache.
        inserted: order of insertion into the cache (a counter, not a time).
        used: order of its last use (a counter, not a time).
        importance: the largest among the requests that used it: minus `Request.priority`.
        reach: blocks of the longest prompt and answer, so far, that it was part of.
        block_size: tokens in a block.
        media_tokens: how many of its tokens stand for an image, a clip or a sound.
    """

    key: int
    position: int
    blocks: int
    hits: int
    inserted: int
    used: int = 0
    importance: int = 0
    reach: int = 0
    block_size: int = 1
    media_tokens: int = 0


class Routable(Protocol):
    """What a router may know of a replica: a snapshot, `age_ps` old."""

    @property
    def id(self) -> ReplicaId: ...
    @property
    def waiting(self) -> int:
        """Requests that are not in the batch."""

    @property
    def arriving(self) -> int:
        """Those of them that have room, and whose KV is still to come over a link."""

    @property
    def running(self) -> int: ...
    @property
    def kv_used(self) -> float:
        """Share of KV blocks that requests hold, 0 to 1."""

    @property
    def age_ps(self) -> Picoseconds: ...


class ClusterView(Protocol):
    """A cluster as a router sees it."""

    @property
    def now(self) -> Picoseconds: ...
    @property
    def replicas(self) -> Sequence[Routable]:
        """The candidates, in order of id; never empty."""

    def prefix_hit_tokens(self, replica: ReplicaId, request: Request) -> int:
        """Tokens of the prompt whose KV the replica holds now (routers follow KV events)."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a policy class declares of itself; shown by ``infersim policies``."""

    repeats: bool = False
    dynamic: bool = False
    oracle: bool = False
    exportable: bool = False
    tail_first: bool = False
    queues: bool = False
    notes: str = field(default="")
