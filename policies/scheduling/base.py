"""What a scheduling policy is shown and how it speaks: the view and the step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, get_args

from ..types import Picoseconds, Promise, SequenceView

#: a sequence as the view gave it; a `SequenceView` to the policy, more to the host
Handle: TypeAlias = Any


#: what becomes of the KV of a request that gives way: it is lost, or copied to host memory
Preemption: TypeAlias = Literal["recompute", "swap"]


def check_preemption(preemption: str) -> None:
    """Verify the parameter.

    Raises:
        ValueError: no such way.
    """
    if preemption not in get_args(Preemption):
        allowed = ", ".join(get_args(Preemption))
        raise ValueError(f'preemption must be one of {allowed}, found "{preemption}"')


class Prefix(NamedTuple):
    """What of a prompt need not be computed.

    Attributes:
        tokens: computed tokens if admitted now: local, remote, or kept from before.
        asynchronous: part of it must be fetched first; use `Step.load`, not `Step.admit`.
        may_grow: a running request may extend the hit by filling its next block.
    """

    tokens: int
    asynchronous: bool
    may_grow: bool


class Found(NamedTuple):
    """A `Prefix` that is about to be held.

    Attributes:
        idle: tokens of it that are in the replica's own cache and held by no request.
    """

    tokens: int
    asynchronous: bool
    idle: int


class ReplicaView(Protocol):
    """One replica at a step boundary, read-only."""

    @property
    def now(self) -> Picoseconds: ...
    @property
    def running(self) -> Collection[SequenceView]:
        """The batch, in order of admission."""

    @property
    def prefilling(self) -> Collection[SequenceView]:
        """The part of `running` that does not simply decode, in order of admission."""

    @property
    def waiting_count(self) -> int:
        """Requests outside the batch, those whose KV is on its way included."""

    @property
    def waiting_ready_count(self) -> int:
        """Those of them that were not put aside by their own state or limits."""

    @property
    def line(self) -> Iterable[SequenceView]:
        """The waiting requests, in the order of the line."""

    @property
    def swapped_count(self) -> int:
        """Waiting requests whose KV is in host memory."""

    def rank(self, seq: Handle) -> tuple[float | int | str, ...]:
        """Where the order of the line puts a request, in the batch or not: smallest first."""

    @property
    def decoding(self) -> bool:
        """Whether some running request has its whole prompt computed."""

    @property
    def executed_steps(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def max_num_batched_tokens(self) -> int: ...
    @property
    def max_model_len(self) -> int:
        """Longest prompt plus answer."""

    @property
    def block_size(self) -> int: ...
    @property
    def free_blocks(self) -> int:
        """KV blocks that no request holds, cached ones included."""

    @property
    def total_blocks(self) -> int:
        """KV blocks of the replica."""

    @property
    def prefix_caching(self) -> bool: ...


class Step(Protocol):
    """One step being planned: a transaction. Every call is checked and takes effect at once.

    Raises:
        IllegalPlanError: on any call that the engine could not carry out.
    """

    budget: int  #: tokens that the step may still compute

    @property
    def preemptions(self) -> int:
        """How many requests the step has preempted."""

    def fits(self, seq: Handle, *, spare: int = 0) -> bool:
        """Whether free KV holds all known tokens of a waiting request, those cached counted.

        Args:
            spare: blocks that it must leave free.
        """

    def spare(self, tokens: int) -> None:
        """Leave *tokens* of the budget unused; below 1: none."""

    def take_decodes(self, *, last_gives_way: bool, swap: bool = False) -> bool:
        """Give every decoding request its token, if all fit and order cannot matter.

        Args:
            last_gives_way: whoever was admitted last is preempted when KV runs out. If False,
                others could preempt them in this step, and it is refused unless they are alone.
            swap: whoever gives way does so as `preempt` says.

        Returns:
            True: what is left of the batch is `ReplicaView.prefilling`. False: nothing was taken,
            go through `ReplicaView.running` one by one.
        """

    def wanted(self, seq: Handle) -> int:
        """Tokens that would bring a running request up to date; 0 when it surely ends."""

    def encodable(self, seq: Handle, start: int, tokens: int) -> int:
        """*tokens* from position *start* on, cut to what the encoder's limits allow."""

    def take(self, seq: Handle, tokens: int) -> bool:
        """Compute *tokens* of a running request; False when KV cannot hold them."""

    def preempt(self, seq: Handle, *, to_back: bool = False, swap: bool = False) -> bool:
        """Free a running request's KV and send it back to wait, to be computed again.

        Args:
            to_back: it goes to the end of the line instead of its front.
            swap: its KV is copied to host memory before the step, and back before the one in which
                it is admitted again. Where the host has no room it is computed again after all.

        Returns:
            False when its KV cannot be freed yet, as a step in flight uses it; nothing changed.
        """

    def next_waiting(self) -> Handle | None:
        """The next request that may be admitted; those that may not yet are put aside."""

    def next_swapped(self) -> Handle | None:
        """As `next_waiting`, of those whose KV is in host memory, whoever else waits."""

    def ready(self, seq: Handle) -> bool:
        """Whether a request of the line may be admitted; one that may not yet is put aside."""

    def prefix(self, seq: Handle) -> Prefix | None:
        """What of its prompt is there already; None: not known yet (put aside)."""

    def padding(self, left: int, computed: int) -> int:
        """Rows that speculation adds to a request admitted with one token left; else 0."""

    def reorder(self) -> None:
        """The order of the line has changed since it was last looked at: rank it again."""

    def put_aside(self, seq: Handle) -> None:
        """Pass over a waiting request in this step; it keeps its place in the line."""

    def admit(
        self,
        seq: Handle,
        tokens: int,
        *,
        whole: bool,
        watermark: float,
        drafts: int = 0,
        until: int = 0,
        hold: bool = False,
    ) -> bool:
        """Move a waiting request into the batch and compute *tokens* of it.

        Args:
            whole: all its known tokens must fit in KV, not only this chunk.
            watermark: share of KV to leave free, when the batch is not empty.
            drafts: padding rows among *tokens* (speculative decoding).
            until: it is promised KV for so many positions, all it may ever need: they must fit
                beside what others were promised. 0: nothing is promised.
            hold: it takes what it is promised at once, and never grows.

        Returns:
            False when KV cannot hold it; nothing changed then.
        """

    def load(
        self, seq: Handle, *, whole: bool, watermark: float, until: int = 0, hold: bool = False
    ) -> bool:
        """Start fetching its remote KV; it waits outside the batch. False: KV cannot hold it."""

    def rectangle(self, *, pad_prompts: bool, pad_ended: bool, together: bool) -> None:
        """What this step admits is a static batch: nobody joins it until all have ended.

        Args:
            pad_prompts: every row is as long as the longest.
            pad_ended: who has ended is computed on, and keeps its KV, until the batch has.
            together: all are answered when the last has ended.
        """

    # ---- prefills that are planned together before any of them takes KV --------------------------

    def lookup(self, seq: Handle) -> int:
        """Tokens of a waiting request, all known ones counted, that are cached: used just now."""

    def visit(self, seq: Handle) -> Found | None:
        """As `prefix`; what is found was used just now."""

    def touch(self, seq: Handle) -> None:
        """A request in line keeps its prefix young, where the index knows ages."""

    def scratch(self) -> Any:
        """An empty set of prompts (`sglang.order.Scratch`)."""

    def by_weight(self, seqs: Sequence[Handle]) -> list[int]:
        """Indices of waiting requests in dfs-weight order of the radix tree."""

    def index(self, seq: Handle) -> None:
        """Put what a running request has computed by now in a radix tree."""

    def owns(self, seq: Handle) -> bool:
        """Whether a waiting request has KV of its own, which came from elsewhere."""

    def hold(self, seq: Handle) -> None:
        """Hold the prefix that `visit` found; the request is admitted by `start` in this step."""

    def start(self, seq: Handle, tokens: int) -> None:
        """Admit a held request and compute *tokens* of it; free KV must hold them."""

    def make_room(self, blocks: int, *, each_decode: bool = False) -> None:
        """Let cached KV go until *blocks* blocks hold none, or no more of it may go.

        Args:
            each_decode: the same before every repetition of this step.
        """

    def decodes(self) -> tuple[int, int]:
        """(running requests that decode now, KV blocks that their next tokens take)."""


class Scheduler(Protocol):
    """A whole scheduling policy.

    Two methods more are called where it has them. ``refuses(view, request)`` is asked on arrival
    why a request can never be served ("" if it can); it fails with that reason. A scheduler that
    lets requests wait while nothing runs has ``wakes_ps(view)``: when it is to be asked again.
    """

    promise: ClassVar[Promise]

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Plan one step."""

    def repeats(self, view: ReplicaView) -> bool:
        """Whether the step just planned, if it only decodes, would be planned again and again.

        That is: until a request arrives, ends or runs short of KV, or a transfer completes.
        """


#: when the key of a waiting request moves that time alone never moves
NEVER: Picoseconds = 1 << 62


class Order(Protocol):
    """Who waits in front of whom: smallest key first, ties by arrival.

    Keys of an order that promises `dynamic` move while a request waits: they are computed at every
    step. That is spared where the order has a method ``changes_ps(seq, now)``, the next time at
    which the key differs (`NEVER` if it will not), or ``group(seq)``, where keys move so that the
    requests of a group never change places among themselves.
    """

    promise: ClassVar[Promise]

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[float | int | str, ...]:
        """Rank of a waiting request."""


class Victim(Protocol):
    """Who gives up its KV when it runs out: highest score first, ties to the later admitted."""

    promise: ClassVar[Promise]

    def score(self, seq: SequenceView, position: int) -> tuple[float | int | str, ...]:
        """How much *seq*, admitted as number *position* of the batch, deserves it."""


def choose_victim(victim: Victim, running: Sequence[SequenceView]) -> SequenceView:
    """The running request that *victim* gives up."""
    scored = [(victim.score(seq, i), i) for i, seq in enumerate(running)]
    return running[max(scored)[1]]
