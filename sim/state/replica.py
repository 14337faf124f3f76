"""One engine replica: its queues, its KV and its steps in flight. The host brings the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from operator import attrgetter

from ...policies.errors import IllegalPlanError, InputError
from ...policies.scheduling.base import Scheduler
from ...policies.types import Picoseconds, Request
from .batch_step import BatchStep
from .config import EngineLimits
from .connector import Connector
from .encoder import EncoderCache
from .group import DecodeGroup
from .kv.face import KVPool
from .plan import Chunk, StepPlan
from .queue import WaitingQueue
from .records import GapHistogram
from .rectangle import Rectangle
from .sequence import (
    COMPILING,
    FINISHED,
    LOADING,
    PREEMPTED,
    RUNNING,
    SWAPPED,
    WAITING,
    Sequence,
)
from .step import UNLIMITED
from .steps import ReplicaSteps
from .swap import SwapSpace
from .view import View

_run_number = attrgetter("run_number")


class Replica(View):
    """State of one replica between decisions; both hosts drive exactly this object.

    A host calls `submit`, `schedule`, and after the plan's time has passed `finish`. With
    asynchronous scheduling it schedules once more before it finishes (`EngineLimits`).

    Args:
        limits, pool, make_queue: see `View`.
        scheduler: its policy.
        connector: where remote KV comes from; None: nowhere.
        accept: how many of a sequence's drafts the model accepts (speculation).
        swap: where preempted requests may keep their KV; None: they lose it.
        gaps: where gaps between tokens are logged. Those of the decode group are the host's to
            log: it knows the times of the steps of a leap.
    """

    __slots__ = (
        "_accept",
        "_admitted",
        "_asks",
        "_edges",
        "_ends",
        "_fenced",
        "_indexes_late",
        "_lag",
        "_leaves",
        "_received",
        "_settled",
        "connector",
        "decode_room",
        "defers",
        "emitted",
        "encoder",
        "finished",
        "gaps",
        "group",
        "in_flight",
        "inflight_prefills",
        "last_finish_ps",
        "log",
        "log_members",
        "measures_contexts",
        "now",
        "promises",
        "rectangle",
        "scheduler",
        "sending",
        "swap",
        "unsettled",
    )

    def __init__(
        self,
        limits: EngineLimits,
        pool: KVPool,
        scheduler: Scheduler,
        make_queue: Callable[[], WaitingQueue],
        *,
        connector: Connector | None = None,
        accept: Callable[[Sequence, int], int] | None = None,
        swap: SwapSpace | None = None,
        gaps: GapHistogram | None = None,
    ) -> None:
        if pool.prefix_index != limits.prefix_index:
            raise InputError(
                f"the engine looks prefixes up in a {limits.prefix_index}, and this host keeps a "
                f"{pool.prefix_index}"
            )
        super().__init__(limits, pool, make_queue)
        self.scheduler = scheduler
        self.connector, self._accept, self.swap = connector, accept, swap
        self.group = DecodeGroup(limits.block_size)
        self.encoder = EncoderCache(limits.encoder_cache_size or UNLIMITED)
        self.in_flight: deque[StepPlan] = deque()
        self.inflight_prefills: dict[Sequence, None] = {}
        self.sending: dict[Sequence, None] = {}  # finished, blocks still being read
        self.now: Picoseconds = 0
        self.log_members = False
        self.measures_contexts = False  #: set where step times depend on how uneven they are
        self.log: ReplicaSteps | None = None  #: set by `trace`; the host says when steps ended
        self.unsettled = False  # the last schedule met something that changes with each step
        self.finished: list[Sequence] = []  #: ended since the host last looked
        self._received: dict[Sequence, bool] = {}  # load done -> whether it failed
        self._ends: dict[int, list[Sequence]] = {}  # step -> group members that sample their last
        self._leaves: dict[int, list[Sequence]] = {}  # step -> members to leave before it
        self._edges: list[int] = []  # heap of the keys of both
        self._asks = getattr(scheduler, "refuses", None)
        self._lag = 1 if limits.async_scheduling else 0
        self._indexes_late = pool.prefix_index != "hash-chain"  # when computed, not when planned
        self.defers = bool(self._lag) and connector is not None and connector.writes
        #: ended, to be released when the step is computed
        self._fenced: deque[tuple[int, Sequence]] = deque()
        self._admitted = 0
        self._settled = 0  # step index up to which the pool knows the group's growth
        self.promises: dict[Sequence, None] = {}  # admitted with KV that they have yet to take
        self.rectangle: Rectangle | None = None  #: the static batch that runs
        self.decode_room = 0  #: blank blocks that each step of the group makes sure of first
        self.gaps = gaps if gaps is not None else GapHistogram()
        #: what chunks answered in the last finish: sequence, tokens, blocks it has in the index
        self.emitted: list[tuple[Sequence, int, int]] = []
        self.last_finish_ps: Picoseconds = 0

    # ---- what the host calls --------------------------------------------------------------------

    @property
    def has_requests(self) -> bool:
        """Whether anything is waiting or running."""
        return bool(self.running or self.waiting or self.holding or self.swapped)

    @property
    def expects_news(self) -> bool:
        """Whether something is to come that what waits may be waiting for: KV, or a grammar."""
        return self.compiling > 0 or bool(self.sending) or self.arriving_count > 0

    @property
    def arriving_count(self) -> int:
        """Requests that own blocks and wait for KV to be written to them."""
        loading = sum(seq.status is LOADING for seq in self.holding)
        return loading - len(self._received)

    @property
    def stands_still(self) -> bool:
        """Whether its requests, if nothing of them is planned, wait for nothing that is to come."""
        if self.encoder.expecting:
            return False
        return bool(self.running) or (self.waiting_count > 0 and not self.expects_news)

    @property
    def wakes_ps(self) -> Picoseconds:
        """When a scheduler that lets requests wait with nothing running looks again; 0: never."""
        ask = getattr(self.scheduler, "wakes_ps", None)
        due: Picoseconds = ask(self) if ask is not None and self.waiting_count else 0
        return due

    def refuses(self, request: Request) -> str:
        """Why *request* can never be served here; "" if it can."""
        reason = self._too_large(request) if request.items else ""
        if self._asks is not None and not reason:
            reason = self._asks(self, request)
        return reason

    def _too_large(self, request: Request) -> str:
        """Which limit its largest image breaks; "" if none."""
        most = max(item.tokens for item in request.items)
        for name in ("encoder_budget", "encoder_cache_size"):
            limit = getattr(self.limits, name)
            if 0 < limit < most:
                return f"an image of {most} tokens over the {name} of {limit}"
        return ""

    def submit(self, seq: Sequence) -> None:
        """A request arrives."""
        seq.replica = self
        self.waiting.add(seq)

    def await_grammar(self, seq: Sequence) -> None:
        """The request that arrives next is passed over until its grammar is compiled."""
        seq.status = COMPILING
        self.compiling += 1

    def grammar_ready(self, seq: Sequence) -> None:
        """The grammar of *seq* is compiled."""
        if seq.status is COMPILING:  # else its client went away
            seq.status = WAITING
            self.compiling -= 1

    def trace(self, log: ReplicaSteps) -> None:
        """Log every step from here on; the host must not leap."""
        self.log, self.log_members = log, True

    def schedule(self, now: Picoseconds) -> StepPlan:
        """Let the policy plan the next step; a plan of 0 tokens is not executed."""
        self.now = self.pool.now = now
        if self._settled != self.step_index:
            self.settle()
        if self.connector is not None:
            self.connector.planning()
        if self._leaves:
            for seq in self._leaves.pop(self.step_index, ()):
                if seq.base is not None and seq.fin == self.step_index - 1:  # else it left since
                    self.leave_group(seq)
        if self.pool.displaced:
            self.pool.displaced = False
            self.spread_group()
        self.unsettled = False
        self.rank_again(now)
        step = BatchStep(self)
        self.scheduler.schedule(self, step)
        plan = step.close()
        if self.log is not None:
            self.log.planned(plan)
        return plan

    def begin(self, plan: StepPlan) -> None:
        """The plan is closed and goes to the device: positions count as computed from here on."""
        if self.group.size and not plan.group:
            self.spread_group()  # members that got no token no longer advance with the steps
        self.step_index += 1
        if self.step_index - self._lag > self.pool.frontier:
            self._advance_frontier(self.step_index - self._lag)
        self.in_flight.append(plan)
        for seq, _, tokens, drafts, samples, _ in plan.chunks:
            seq.computed += tokens
            seq.in_flight += tokens
            seq.is_chunk = not samples
            if not samples:
                continue
            self.inflight_prefills.pop(seq, None)
            if self._lag:
                seq.placeholders += 1 + drafts
                seq.drafts = self.limits.num_spec_tokens
            self._try_to_join(seq)

    def repeats(self, plan: StepPlan) -> int:
        """How many times *plan*, just begun, is taken before the next decision can differ."""
        before = self.in_flight[0]
        if (
            not plan.pure_decode
            or self.unsettled
            or (self.waiting.dynamic and self.waiting_count > 1)
            or (before is not plan and (not before.pure_decode or before.index in self._ends))
            or not self.scheduler.repeats(self)
        ):
            return 1
        edges = self._edges
        while edges and edges[0] <= plan.index:
            heappop(edges)
        most = edges[0] - plan.index
        return 1 + self.group.steps_within(self.step_index, self.pool.free, most - 1)

    def finish(self, plan: StepPlan, now: Picoseconds, steps: int = 1) -> None:
        """The first *steps* steps of the oldest plan in flight are computed: account for them.

        What is left of a repeated plan stays in flight.
        """
        self.now = self.pool.now = now
        repeat = plan.repeat
        if repeat > 1:
            self.catch_up(plan.index + repeat)
        last = plan.index + steps - 1
        if steps < repeat:
            plan.index += steps
            plan.repeat -= steps
        else:
            self.in_flight.popleft()
        if self._settled != self.step_index:
            self.settle()
        if last >= self.pool.frontier:
            self._advance_frontier(last + 1)
        while self._fenced and self._fenced[0][0] <= last:
            self.pool.release(self._fenced.popleft()[1])
        self.emitted = []
        ended = []
        if plan.chunks:
            account = self._conclude if self._indexes_late else self._account
            ended = [chunk.seq for chunk in plan.chunks if account(chunk, now)]
        self.last_finish_ps = now
        if last in self._ends:
            for seq in self._ends.pop(last):
                self.leave_group(seq)
                seq.known = seq.last_token
                ended.append(seq)
        if len(ended) > 1:
            ended.sort(key=_run_number)
        for seq in ended:
            self._end(seq)

    def abort(self, seq: Sequence) -> None:
        """The client went away (or the request fails): forget the request wherever it is."""
        self.settle()
        batch = self.rectangle
        if batch is not None and seq in batch.over:
            del batch.over[seq]
        elif seq.status is RUNNING:
            if seq.base is not None:
                self.leave_group(seq)
            del self.running[seq]
            self.explicit.pop(seq, None)
        else:
            self.leave_line(seq)
            self.compiling -= seq.status is COMPILING
        loading = seq.status is LOADING and seq not in self._received
        self._received.pop(seq, None)
        self._close(seq, keep_blocks=loading)
        if batch is not None:
            self._end_batch(batch)

    def received(self, seq: Sequence, bad_block: int | None = None) -> bool:
        """The KV that *seq* waits for is here, all or (from *bad_block* on) not.

        Returns:
            Whether the request must end in error (`EngineLimits.fail_on_load_error`).
        """
        if seq.status is FINISHED:
            self.release(seq)
            return False
        if bad_block is not None:
            seq.computed = min(seq.computed, bad_block * self.limits.block_size)
        self._received[seq] = bad_block is not None
        return bad_block is not None and self.limits.fail_on_load_error

    def sent(self, seq: Sequence) -> None:
        """Whoever read the finished request's blocks has them now."""
        del self.sending[seq]
        self.release(seq)

    def release(self, seq: Sequence) -> None:
        """Free the blocks of a sequence that is not running."""
        self.settle()
        self.pool.release(seq)

    def holds_in_flight(self, seq: Sequence) -> bool:
        """Whether a step in flight may still touch blocks of *seq* that KV from elsewhere could
        be written into (vLLM `_request_blocks_can_be_freed`)."""
        return self.defers and seq.in_flight > 0

    # ---- what the step builder calls ------------------------------------------------------------

    def start(self, seq: Sequence, computed: int) -> None:
        """*seq* joins the batch with *computed* positions in KV."""
        seq.status = RUNNING
        seq.computed = computed
        seq.run_number = self._admitted = self._admitted + 1
        if seq.scheduled_ps < 0:
            seq.scheduled_ps = self.now
        self.deferred.pop(seq, None)
        self.running[seq] = self.explicit[seq] = None

    def preempt(self, seq: Sequence, *, to_back: bool = False, swap: bool = False) -> None:
        """Free what *seq* holds and send it to the front of the line, to be computed again.

        Args:
            to_back: it queues up anew instead (SGLang).
            swap: its KV goes to host memory where that has room, and nothing is computed again.
        """
        swaps = swap and self._swap_out(seq)
        self.pool.release(seq)
        self._forget_promise(seq)
        self.encoder.release(seq)
        self.inflight_prefills.pop(seq, None)
        del self.running[seq]
        self.explicit.pop(seq, None)
        seq.preemptions += 1
        seq.preempted_ps = self.now
        seq.drafts = 0
        if swaps:
            seq.status = SWAPPED
            self.swapped.add(seq)
            return
        seq.recomputed += seq.computed
        seq.status = PREEMPTED
        seq.computed = seq.placeholders = 0
        seq.stale = seq.in_flight
        if to_back:
            self.waiting.add(seq)
        else:
            self.waiting.put_back(seq)

    def _swap_out(self, seq: Sequence) -> bool:
        if self.swap is None:
            raise IllegalPlanError(f"{seq} cannot be swapped: this replica has no swap space")
        return seq.computed > 0 and self.swap.out(seq)

    def loaded(self, seq: Sequence) -> bool:
        """Whether the KV that *seq* waits for has come; if so it may be admitted."""
        failed = self._received.pop(seq, None)
        if failed is None:
            return False
        if failed and not seq.computed:
            self.pool.release(seq)  # it starts over, and asks the connector again
        else:
            self.pool.commit(seq, seq.computed)
        if seq.computed == seq.known:
            seq.computed -= 1  # the last token is computed here, to sample the next
        seq.status = PREEMPTED if seq.preemptions else WAITING
        return True

    def remaining_blocks(self, seq: Sequence) -> int:
        """Blocks that a prefill in flight still needs, and those of its first decode."""
        limits = self.limits
        tokens = min(seq.known, limits.max_model_len)
        if limits.num_spec_tokens:
            tokens += 1 + limits.num_spec_tokens + limits.lookahead_tokens
        return max(-(-tokens // limits.block_size) - seq.blocks, 0)

    # ---- accounting -----------------------------------------------------------------------------

    def _conclude(self, chunk: Chunk, now: Picoseconds) -> bool:
        """As `_account`; a prompt that is computed now goes into a radix tree."""
        seq, start, tokens, _, samples, admitted = chunk
        stale = seq.stale
        ended = self._account(chunk, now)
        prefill = admitted is not None or start < seq.prompt_tokens
        if prefill and samples and not (ended or stale) and seq.status is RUNNING:
            self.pool.checkpoint(seq, start + tokens)
        return ended

    def _account(self, chunk: Chunk, now: Picoseconds) -> bool:
        """Book one chunk's outcome (vLLM `update_from_output`); True when its request ended."""
        seq, _, tokens, drafts, samples, _ = chunk
        if seq.base is not None:  # it decodes in the group since: only its token is news
            if samples:
                self._emit(seq, 1, now)
            return False
        seq.in_flight -= tokens
        stale = seq.stale > 0
        if stale:
            seq.stale -= tokens
        if seq.status is FINISHED:
            return False
        emitted = 0
        if samples:
            emitted = 1
            if drafts:
                emitted += self._accept(seq, drafts) if self._accept else 0
                rejected = drafts + 1 - emitted
                if not stale:
                    seq.computed -= rejected if seq.computed else 0
                    seq.placeholders -= rejected if seq.placeholders else 0
        if seq.items:
            self.encoder.release_passed(seq, seq.computed - seq.placeholders)
        if not emitted:
            return False
        kept = min(emitted, seq.last_token - seq.known)
        seq.known += kept
        ended = seq.known >= seq.last_token
        if not stale:
            seq.computed -= emitted - kept
            awaited = seq.placeholders > 0
            if awaited:
                seq.placeholders -= emitted
            if seq.status is RUNNING and (awaited or self.limits.num_spec_tokens):
                self.pool.commit(seq, min(seq.computed - seq.in_flight, seq.known))
        self._emit(seq, kept, now)
        if ended:
            if seq.items:  # before the next request of the step lets go of its own
                self.encoder.release(seq)
        elif not self._lag:
            seq.drafts = self.limits.num_spec_tokens
        return ended

    def _emit(self, seq: Sequence, tokens: int, now: Picoseconds) -> None:
        cached = seq.committed if seq.status is RUNNING else 0
        self.emitted.append((seq, tokens, cached))
        if seq.first_token_ps < 0:
            seq.first_token_ps = now
        else:
            self.gaps.add(now - seq.last_token_ps, 0, 1, 1)
        if tokens > 1:
            self.gaps.add(0, 0, tokens - 1, 1)  # tokens of one step reach the client together
        seq.last_token_ps = now

    def _end(self, seq: Sequence) -> None:
        if seq.status is RUNNING:
            del self.running[seq]
            self.explicit.pop(seq, None)
        else:
            self.leave_line(seq)  # preempted while its last token was in flight
        batch = self.rectangle
        if batch is None or not batch.together:
            self._close(seq, keep_blocks=False)
        else:
            batch.over[seq] = None
            self.pool.checkpoint(seq, min(seq.computed, seq.known - 1))
            seq.status = FINISHED
            if not batch.pad_ended and self.connector is None:
                self.pool.release(seq)
        if batch is not None:
            self._end_batch(batch)

    def _end_batch(self, batch: Rectangle) -> None:
        """If nobody of the static batch runs any more, answer all who are not answered."""
        if not self.running:
            self.rectangle = None
            for seq in batch.over:
                self._close(seq, keep_blocks=False)

    def _forget_promise(self, seq: Sequence) -> None:
        seq.promised_blocks, seq.held = 0, False
        self.promises.pop(seq, None)

    def _close(self, seq: Sequence, *, keep_blocks: bool) -> None:
        if self._indexes_late and seq.status is RUNNING:
            self.pool.checkpoint(seq, min(seq.computed, seq.known - 1))
        seq.status = FINISHED
        if seq.promised_blocks:
            self._forget_promise(seq)
        if self.inflight_prefills:
            self.inflight_prefills.pop(seq, None)
        if self.deferred:
            self.deferred.pop(seq, None)
        if self.connector is not None and self.connector.finished(seq):
            self.sending[seq] = None
            keep_blocks = True
        if seq.items:
            self.encoder.release_all(seq)
        if self.swap is not None:
            self.swap.drop(seq)
        if not keep_blocks:
            if self.holds_in_flight(seq):
                self._fenced.append((self.step_index - 1, seq))
            else:
                self.pool.release(seq)
        self.finished.append(seq)

    # ---- the decode group -----------------------------------------------------------------------

    def settle(self) -> None:
        """Book the group's growth up to the step index with the pool.

        Members that come or go at one step index change nothing here: they start from zero, and
        take what is theirs with them.
        """
        if self._settled != self.step_index:
            self._settled = self.step_index
            if self.pool.lazy:
                self.pool.reserve(self.group.taken(self.step_index))

    def kv_at(self, step: int) -> tuple[int, int]:
        """(blocks held, blocks idle but cached) when the steps before *step* are scheduled."""
        pool = self.pool
        if pool.uneven:
            self.catch_up(step)
        more = 0
        if step != self.step_index:
            more = self.group.taken(step) - self.group.taken(self.step_index)
        blank = pool.free - pool.cached_idle
        return pool.total - pool.free + more, pool.cached_idle - max(0, more - blank)

    def grow_group(self, growth: int) -> None:
        """Take the *growth* blocks of the group's step and index what it fills."""
        step = self.step_index
        if self.pool.lazy:
            if growth:
                self.pool.grow(growth)
        else:
            for seq in self._by_admission(step):
                if not seq.held:
                    self.pool.acquire(seq, None, seq.blocks + 1)
        self._settled = step + 1
        self._advance_frontier(step + 1 - self._lag)

    def catch_up(self, step: int) -> None:
        """Book the steps of a leap that are planned before *step*.

        Whoever reads the pool in the middle of a leap finds it as these steps left it.
        """
        if step <= self.step_index:
            return
        if not self.pool.lazy:
            self._grow_members(self.in_flight[-1], step)
        elif self.decode_room:
            self.pool.reserve(self.group.taken(step - 1))
            self.pool.make_room(self.decode_room)
        self.step_index = step
        self.settle()
        self._advance_frontier(step - self._lag)

    def _grow_members(self, plan: StepPlan, end: int) -> None:
        buckets, size, pool = self.group.buckets, self.limits.block_size, self.pool
        for step in range(self.step_index, end):
            if buckets[step % size] or self.decode_room:
                if plan.planned_ps is not None:
                    pool.now = plan.planned_ps(step - plan.index)
                pool.make_room(self.decode_room)
                for seq in self._by_admission(step):
                    if not seq.held:
                        pool.acquire(seq, None, seq.blocks + 1)
            self._advance_frontier(step + 1 - self._lag)
        pool.now = self.now

    def _advance_frontier(self, frontier: int) -> None:
        pool = self.pool
        if frontier <= pool.frontier:
            return
        if not pool.lazy and self.group.size:
            buckets, size = self.group.buckets, self.limits.block_size
            for step in range(pool.frontier + 1, frontier + 1):
                if buckets[step % size]:
                    for seq in self._by_admission(step):
                        assert seq.base is not None
                        pool.commit(seq, step - seq.base)
        pool.frontier = frontier

    def _by_admission(self, step: int) -> list[Sequence]:
        bucket = self.group.buckets[step % self.limits.block_size]
        return sorted(bucket, key=_run_number) if len(bucket) > 1 else list(bucket)

    def explicit_come_last(self) -> bool:
        """Whether every group member was admitted before every explicit request."""
        left = len(self.explicit)
        for seq in reversed(self.running):
            if not left:
                break
            if seq.base is not None:
                return False
            left -= seq in self.explicit
        return True

    def next_block_is_growing(self, seq: Sequence, blocks: int) -> bool:
        """Whether a group member is about to fill the block that would extend this hit (eager
        pools; lazy ones say so in `Hit.may_grow`)."""
        pool, size = self.pool, self.limits.block_size
        end = (blocks + 1) * size
        if pool.lazy or not self.limits.prefix_caching or end > seq.known - 1:
            return False
        link = seq.chain.link_at(end - 1)
        return any(
            member.committed == blocks and member.chain.link_at(end - 1) == link
            for bucket in self.group.buckets
            for member in bucket
        )

    def spread_group(self) -> None:
        """Dissolve the group: every member becomes explicit (the order matters in this step)."""
        stay = [seq for seq in self.running if seq.base is not None or seq in self.explicit]
        for seq in stay:
            if seq.base is not None:
                self.leave_group(seq)
        self.explicit = dict.fromkeys(stay)

    def _try_to_join(self, seq: Sequence) -> None:
        """If *seq* will do nothing but decode, let it advance with the steps from here on."""
        ahead = seq.known + (seq.placeholders if self._lag else 1)
        rest = seq.last_token - ahead
        if rest <= 0 or self.limits.num_spec_tokens or seq.stale:
            return
        if seq.items and self.encoder.holds(seq):
            return
        if not self.pool.join(seq):
            return
        step = self.step_index
        del self.explicit[seq]
        seq.joined = step
        seq.fin = fin = step - 1 + rest
        self.group.add(seq, step)
        self._ends.setdefault(fin, []).append(seq)
        edge = fin + 1 + (self._lag and not seq.ends_by_limit)
        if self._lag and seq.ends_by_limit:
            # the engine foresees the end and gives it no token while the last is in flight
            self._leaves.setdefault(edge, []).append(seq)
        heappush(self._edges, edge)

    def leave_group(self, seq: Sequence) -> None:
        """*seq* gets fields of its own again, as if every step had updated them."""
        base = seq.base
        assert base is not None
        committed = max(seq.committed, (self.pool.frontier - base) // self.limits.block_size)
        taken = self.group.remove(seq, self.step_index)
        self.pool.leave(seq, taken, committed)
        seq.in_flight = 0
        for plan in self.in_flight:
            if plan.index >= seq.joined:
                plan.group -= 1
                plan.chunks.append(Chunk(seq, plan.index - base, 1, 0, True, None))
                plan.chunks.sort(key=lambda chunk: chunk.seq.run_number)
            seq.in_flight += sum(chunk.tokens for chunk in plan.chunks if chunk.seq is seq)
        flying = len(self.in_flight)
        seq.placeholders = flying if self._lag else 0
        seq.known = seq.computed + 1 - flying
        if self.step_index - flying >= seq.joined:
            seq.last_token_ps = self.last_finish_ps
        if seq in self._ends.get(seq.fin, ()):
            self._ends[seq.fin].remove(seq)
