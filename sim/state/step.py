"""The transaction through which a scheduling policy speaks (DESIGN §2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...policies.errors import IllegalPlanError
from ...policies.scheduling.base import Prefix
from .connector import Remote
from .kv.face import Hit
from .plan import Admission, Chunk, StepPlan
from .rectangle import Rectangle
from .sequence import COMPILING, FINISHED, LOADING, RUNNING, SWAPPED, Sequence

if TYPE_CHECKING:
    from .replica import Replica

UNLIMITED = 1 << 60
_NOTHING = Remote(0, False)


class StepBuilder:
    """One step being planned. Deciding and allocating interleave: every call takes effect at once.

    See `policies.scheduling.base.Step` for what each call means to a policy.
    """

    def __init__(self, replica: Replica) -> None:
        limits = replica.limits
        self.replica = replica
        self.budget = limits.max_num_batched_tokens
        self.plan = StepPlan(replica.step_index)
        self._taken: dict[Sequence, Chunk] = {}
        self._prefixes: dict[Sequence, tuple[Hit | None, Remote]] = {}
        self._encoder_budget = limits.encoder_budget or UNLIMITED
        self._items: dict[Sequence, list[int]] = {}
        self._spared = 0  # of the budget
        #: of the request that is being looked at
        self._pending_items: list[int] | tuple[()] = ()
        self._pending_twins: list[int] | tuple[()] = ()  # equal to one of these, computed with it
        self._rectangle: tuple[bool, bool, bool] | None = None  # of the static batch that it admits

    # ---- the batch ------------------------------------------------------------------------------

    @property
    def preemptions(self) -> int:
        """How many requests the step has preempted."""
        return len(self.plan.preempted)

    def spare(self, tokens: int) -> None:
        """Leave *tokens* of the budget unused; below 1: none."""
        if tokens > 0:
            self.budget -= tokens
            self._spared += tokens

    def take_decodes(self, *, last_gives_way: bool, swap: bool = False) -> bool:
        """Give every decoding request its token, if all fit and order cannot matter."""
        replica, plan = self.replica, self.plan
        group, step = replica.group, replica.step_index
        if plan.group:
            raise IllegalPlanError(f"the {plan.group} decodes of this step are taken already")
        if not group.size:
            return True
        growth = group.growth(step)
        if growth > replica.pool.free and self._can_give_way(last_gives_way):
            growth = self._give_way(growth, swap)
        size = group.size
        if (
            growth > replica.pool.free
            or size > self.budget
            or (replica.explicit and not (last_gives_way and replica.explicit_come_last()))
        ):
            replica.spread_group()
            return False
        if not size:
            return True
        self.budget -= size
        plan.group = size
        plan.group_context_tokens = group.context_tokens(step)
        plan.group_adapted = group.adapted
        plan.group_structured = group.structured
        if replica.measures_contexts:
            plan.group_contexts = group.contexts(step)
        if self._prefixes:
            self._prefixes.clear()
        if replica.log_members:
            plan.members = [seq for seq in replica.running if seq.base is not None]
        replica.grow_group(growth)
        return True

    def _can_give_way(self, last_gives_way: bool) -> bool:
        replica = self.replica
        return (
            last_gives_way
            and not replica.explicit
            and replica.pool.lazy
            and not replica.defers
            and replica.group.size <= self.budget
        )

    def _give_way(self, growth: int, swap: bool) -> int:
        """Preempt from the end of the batch until the group finds blocks; how many it still takes.

        What the first members in line need is taken before anyone gives way, as one by one.
        """
        replica = self.replica
        group, pool, step = replica.group, replica.pool, replica.step_index
        while growth > pool.free:
            growth -= pool.free
            pool.grow(pool.free)
            last = next(reversed(replica.running))
            if last.base is not None:
                growth -= group.needs_block(last, step)
                replica.leave_group(last)
            self.preempt(last, swap=swap)
        return growth

    def wanted(self, seq: Sequence) -> int:
        """Tokens that would bring a running request up to date; 0 when it surely ends."""
        if seq.base is not None:
            if self.plan.group:
                return 0  # it has its token
            self.replica.spread_group()
        placeholders = seq.placeholders
        if placeholders and seq.computed + 2 - placeholders >= seq.prompt_tokens + seq.max_tokens:
            return 0
        behind = seq.known + seq.drafts + placeholders - seq.computed
        return min(behind, self.replica.limits.max_model_len - seq.computed - 1)

    def take(self, seq: Sequence, tokens: int) -> bool:
        """Compute *tokens* of a running request; False when KV cannot hold them."""
        replica = self.replica
        if seq.base is not None and not self.plan.group:
            replica.spread_group()
        if seq not in replica.explicit or seq in self._taken:
            raise IllegalPlanError(f"{seq} cannot be taken: not running, or taken already")
        if not 0 < tokens <= min(self.budget, self.wanted(seq)):
            raise IllegalPlanError(
                f"{tokens} tokens of {seq}: it wants {self.wanted(seq)}, the step has {self.budget}"
            )
        slots = self._slots(seq.computed + tokens)
        if slots - seq.blocks > replica.pool.free:
            return False
        if slots > seq.blocks:
            replica.pool.acquire(seq, None, slots)
        replica.pool.commit(seq, min(seq.computed + tokens, seq.known))
        self._prefixes.clear()
        drafts = 0
        if seq.drafts:
            drafts = seq.computed + tokens - seq.known - seq.placeholders
            drafts = max(0, min(drafts, seq.drafts))
            seq.drafts = 0
        self._record(seq, seq.computed, tokens, drafts, None)
        return True

    def preempt(self, seq: Sequence, *, to_back: bool = False, swap: bool = False) -> bool:
        """Free a running request's KV and send it back to wait; False: not yet."""
        replica = self.replica
        if seq not in replica.running:
            raise IllegalPlanError(f"{seq} cannot be preempted: it is not running")
        if replica.rectangle is not None:
            raise IllegalPlanError(f"{seq} cannot be preempted: a static batch runs to its end")
        if seq.base is not None:
            if self.plan.group:
                raise IllegalPlanError(
                    f"{seq} cannot be preempted: the decodes of this step were taken together"
                )
            replica.spread_group()
        if replica.holds_in_flight(seq):
            replica.unsettled = True
            return False
        chunk = self._taken.pop(seq, None)
        if chunk is not None:
            self.budget += chunk.tokens
            items = self._items.pop(seq, ())
            self._encoder_budget += sum(seq.items[i].tokens for i in items)
        replica.preempt(seq, to_back=to_back, swap=swap)
        self._prefixes.clear()
        self.plan.preempted.append(seq)
        return True

    # ---- the waiting line -----------------------------------------------------------------------

    def next_waiting(self) -> Sequence | None:
        """The next request that may be admitted; those that may not yet are put aside."""
        replica = self.replica
        while True:
            head = replica.head
            if head is None or self.ready(head):
                return head

    def next_swapped(self) -> Sequence | None:
        """As `next_waiting`, of those whose KV is in host memory, whoever else waits."""
        while self.replica.swapped:
            seq = self.replica.swapped.peek()
            if self.ready(seq):
                return seq
        return None

    def ready(self, seq: Sequence) -> bool:
        """Whether a request of the line may be admitted; one that may not yet is put aside."""
        self._check_waiting(seq, "looked at")
        status = seq.status
        if status is COMPILING or (status is LOADING and not self.replica.loaded(seq)):
            self.put_aside(seq)
        elif seq.stale or (status is SWAPPED and self._just_swapped(seq)):
            self.replica.unsettled = True
            self.put_aside(seq)
        elif seq.lora and self._too_many_loras(seq.lora):
            self.put_aside(seq)
        else:
            return True
        return False

    def _just_swapped(self, seq: Sequence) -> bool:
        """Whether it gave way in this very step, or a step in flight still computes its KV."""
        return seq.in_flight > 0 or seq in self.plan.preempted

    def _too_many_loras(self, lora: str) -> bool:
        most = self.replica.limits.max_loras
        if not most:
            return False
        active = {other.lora for other in self.replica.running if other.lora}
        return len(active) >= most and lora not in active

    def reorder(self) -> None:
        """The order of the line has changed since it was last looked at: rank it again."""
        self.replica.rank_again(self.replica.now)

    def put_aside(self, seq: Sequence) -> None:
        """Pass over a waiting request in this step; it keeps its place in the line."""
        self._check_waiting(seq, "put aside")
        self.replica.leave_line(seq)
        self.replica.deferred[seq] = None
        self.replica.aside[seq] = None

    def _check_waiting(self, seq: Sequence, what: str) -> None:
        status = seq.status
        if status is RUNNING or status is FINISHED or seq in self.replica.aside:
            raise IllegalPlanError(f"{seq} cannot be {what}: it is not in the waiting line")

    def prefix(self, seq: Sequence) -> Prefix | None:
        """What of its prompt is there already; None: not known yet (put aside)."""
        return self._prefix(seq, self.replica.pool.match)

    def _prefix(self, seq: Sequence, find: Callable[[Sequence, int], Hit]) -> Prefix | None:
        replica = self.replica
        self._check_waiting(seq, "looked up")
        if seq.status is SWAPPED:
            hit = find(seq, seq.computed)  # blocks that it need not take
            self._prefixes[seq] = (hit, _NOTHING)
            may_grow = hit.may_grow or replica.next_block_is_growing(seq, hit.blocks)
            return Prefix(seq.computed, False, may_grow)
        if seq.computed:
            self._prefixes[seq] = (None, _NOTHING)
            return Prefix(seq.computed, False, False)
        hit = find(seq, seq.known - 1)
        local = hit.blocks * replica.pool.block_size
        remote = _NOTHING
        if replica.connector is not None:
            answer = replica.connector.matched(seq, local)
            if answer is None:
                self.put_aside(seq)
                return None
            remote = answer
        if not seq.preemptions:
            seq.hit_tokens, seq.external_tokens = local, remote.tokens
        self._prefixes[seq] = (hit, remote)
        may_grow = hit.may_grow or replica.next_block_is_growing(seq, hit.blocks)
        return Prefix(local + remote.tokens, remote.asynchronous, may_grow)

    def fits(self, seq: Sequence, *, spare: int = 0) -> bool:
        """Whether free KV holds all known tokens of a waiting request, those cached counted."""
        self._check_waiting(seq, "measured")
        pool, known = self.replica.pool, min(seq.known, self.replica.limits.max_model_len)
        swapped = seq.status is SWAPPED
        limit = seq.computed if swapped else seq.known - 1
        hit = None if seq.computed and not swapped else pool.match(seq, limit)
        held, idle = (seq.blocks, 0) if hit is None else (hit.blocks, hit.idle)
        return self._blocks(known) - held + idle + spare <= pool.free

    def padding(self, left: int, computed: int) -> int:
        """Rows that speculation adds to a request admitted with one token left; else 0."""
        limits = self.replica.limits
        drafts = limits.num_spec_tokens
        if left != 1 or computed + 1 + drafts + 1 > limits.max_model_len:
            return 0
        joins = computed or self.plan.group or any(c.admitted is None for c in self._taken.values())
        return drafts if joins else 0

    def rectangle(self, *, pad_prompts: bool, pad_ended: bool, together: bool) -> None:
        """What this step admits is a static batch: nobody joins it until all have ended."""
        if self.replica.running and len(self.replica.running) > len(self._taken):
            raise IllegalPlanError("a static batch begins alone, and requests are running")
        self._rectangle = (pad_prompts, pad_ended, together)

    def admit(
        self,
        seq: Sequence,
        tokens: int,
        *,
        whole: bool,
        watermark: float,
        drafts: int = 0,
        until: int = 0,
        hold: bool = False,
    ) -> bool:
        """Move a waiting request into the batch and compute *tokens* of it."""
        replica = self.replica
        limits = replica.limits
        left = self._left(seq, asynchronous=False) + drafts
        if (
            not (0 < tokens <= self.budget and tokens <= left)
            or drafts < 0
            or (drafts and drafts > min(limits.num_spec_tokens, tokens - 1))
        ):
            raise IllegalPlanError(
                f"{tokens} tokens of {seq}, {drafts} of them drafts: "
                f"{left} are left to compute, the step has {self.budget}"
            )
        if len(replica.running) >= limits.max_num_seqs:
            raise IllegalPlanError(f"{seq} cannot be admitted: {len(replica.running)} are running")
        if replica.rectangle is not None:
            raise IllegalPlanError(f"{seq} cannot join: a static batch is running")
        start = self._allocate(seq, tokens, whole, watermark, 0, until, hold)
        if start is None:
            if seq.items:
                replica.encoder.release(seq)
            return False
        end = start + tokens
        replica.pool.commit(seq, min(end, seq.known))
        self._tell(seq, start)
        replica.leave_line(seq)
        resumed = seq.preemptions > 0
        replica.start(seq, start)
        if end < seq.known:
            replica.inflight_prefills[seq] = None
        self._record(seq, start, tokens, drafts, resumed)
        return True

    def load(
        self, seq: Sequence, *, whole: bool, watermark: float, until: int = 0, hold: bool = False
    ) -> bool:
        """Start fetching its remote KV; it waits outside the batch."""
        replica = self.replica
        self._left(seq, asynchronous=True)
        reserved = sum(replica.remaining_blocks(other) for other in replica.inflight_prefills)
        if replica.limits.num_spec_tokens:
            reserved += -(-replica.limits.num_spec_tokens // replica.limits.block_size)
        start = self._allocate(seq, 0, whole, watermark, reserved, until, hold)
        if start is None:
            return False
        self._tell(seq, start)
        seq.computed = start
        replica.leave_line(seq)
        seq.status = LOADING
        replica.inflight_prefills[seq] = None
        replica.deferred[seq] = None
        replica.aside[seq] = None
        return True

    # ---- allocation -----------------------------------------------------------------------------

    def _left(self, seq: Sequence, *, asynchronous: bool) -> int:
        """Known tokens of a waiting request that its prefix leaves to compute."""
        found = self._prefixes.get(seq)
        if found is None:
            raise IllegalPlanError(f"{seq}: ask for its prefix before, and after any change of KV")
        hit, remote = found
        if remote.asynchronous != asynchronous:
            call = "load" if remote.asynchronous else "admit"
            raise IllegalPlanError(f"{seq} needs {call}(): {remote.tokens} tokens come later")
        cached = seq.computed  # its own, in blocks or in host memory
        if hit is not None and seq.status is not SWAPPED:
            cached = hit.blocks * self.replica.limits.block_size
        return seq.known - cached - remote.tokens

    def _allocate(
        self,
        seq: Sequence,
        tokens: int,
        whole: bool,
        watermark: float,
        reserved: int,
        until: int,
        hold: bool,
    ) -> int | None:
        """Blocks for a waiting request; its first computed position, or None."""
        replica = self.replica
        pool, limits, size = replica.pool, replica.limits, replica.pool.block_size
        hit, remote = self._prefixes[seq]
        hit_blocks, idle = (hit.blocks, hit.idle) if hit is not None else (0, 0)
        spare = idle
        if watermark and replica.running:
            spare += int(watermark * (pool.total + 1))  # vLLM counts its null block into the base
        held = hit_blocks + seq.blocks
        if whole:
            need = -(-min(seq.known, limits.max_model_len) // size) - held
            if (need if need > 0 else 0) + spare > pool.free:
                return None
        most = seq.promised_blocks
        if until and not most:
            most = self._promise(seq, until)
            if max(most - held, 0) + spare + self._promised() > pool.free - reserved:
                return None
        start = seq.computed + remote.tokens
        if seq.status is not SWAPPED:
            start += hit_blocks * size
        end = start + tokens + (limits.lookahead_tokens if tokens else 0)
        slots = max(-(-min(end, limits.max_model_len) // size), held)
        if slots - held + spare > pool.free - reserved:
            # whoever grows may evict the hit: then less of the first chunk has to be held
            replica.unsettled |= idle > 0 and not whole and (pool.uneven or not pool.lazy)
            return None
        if until and not seq.promised_blocks:
            seq.promised_blocks, seq.held = most, hold
            if not hold:
                replica.promises[seq] = None
        pool.acquire(seq, hit, max(slots, most) if hold else slots)
        if seq.status is SWAPPED:
            assert replica.swap is not None
            replica.swap.back(seq)
        return start

    def _promise(self, seq: Sequence, until: int) -> int:
        """Blocks of *until* positions, and what speculation adds to them."""
        limits = self.replica.limits
        least = min(seq.prompt_tokens + seq.max_tokens, limits.max_model_len)
        if until < least:
            raise IllegalPlanError(f"{seq} is promised KV for {until} tokens and may need {least}")
        drafts = limits.num_spec_tokens + limits.lookahead_tokens
        return self._blocks(min(until + drafts, limits.max_model_len))

    def _promised(self) -> int:
        """Blocks that requests were promised and have not taken yet."""
        replica = self.replica
        step, size = replica.step_index + (self.plan.group > 0), replica.limits.block_size
        left = 0
        for seq in replica.promises:
            blocks = seq.blocks
            if seq.base is not None:
                blocks = max(seq.entry_blocks, -(-(step - seq.base) // size))
            left += max(seq.promised_blocks - blocks, 0)
        return left

    def _tell(self, seq: Sequence, start: int) -> None:
        """Let connector and log know of an allocation."""
        hit, remote = self._prefixes[seq]
        if self.replica.connector is not None:
            self.replica.connector.allocated(seq, remote)
        if hit is not None and seq.status is not SWAPPED:
            self.plan.admissions.append(
                Admission(seq, seq.known, start - remote.tokens, remote, seq.preemptions > 0)
            )
        self._prefixes.clear()

    # ---- the encoder ----------------------------------------------------------------------------

    def encodable(self, seq: Sequence, start: int, tokens: int) -> int:
        """*tokens* from position *start* on, cut to what the encoder's limits allow."""
        if not seq.items or not tokens:
            self._pending_items = ()
            return tokens
        self._pending_items = pending = []
        self._pending_twins = twins = []
        cache = self.replica.encoder
        planned_tokens, planned = 0, set()
        budget, end = self._encoder_budget, start + tokens
        for index, item in enumerate(seq.items):
            if item.offset >= end or item.offset + item.tokens <= start:
                continue
            if item.identifier in planned:
                twins.append(index)
                continue
            if cache.use(seq, index):
                continue
            if not cache.make_room(item, budget, planned_tokens):
                return min(tokens, item.offset - start) if start < item.offset else 0
            planned.add(item.identifier)
            planned_tokens += item.tokens
            budget -= item.tokens
            pending.append(index)
        return tokens

    def _record(
        self, seq: Sequence, start: int, tokens: int, drafts: int, admitted: bool | None
    ) -> None:
        if self._pending_items:
            items, self._pending_items = list(self._pending_items), ()
            self._items[seq] = items
            for index in items:
                self.replica.encoder.store(seq, index)
                self._encoder_budget -= seq.items[index].tokens
            for index in self._pending_twins:
                self.replica.encoder.use(seq, index)
        self.budget -= tokens
        samples = start + tokens >= seq.known + seq.placeholders
        self._taken[seq] = Chunk(seq, start, tokens, drafts, samples, admitted)

    # ---- the end --------------------------------------------------------------------------------

    def close(self) -> StepPlan:
        """Put the passed-over requests back and hand the plan to the replica."""
        replica, plan = self.replica, self.plan
        if replica.aside:
            replica.put_aside_back()
        if self._items:
            plan.encoder = list(self._items.items())
        if replica.encoder.evicted:
            plan.encoder_evicted = replica.encoder.take_evicted()
        if self._taken:
            plan.chunks = list(self._taken.values())
        if self._rectangle is not None and plan.chunks:
            longest = max(chunk.start + chunk.tokens for chunk in plan.chunks)
            begun = Rectangle(plan.index, len(plan.chunks), longest, *self._rectangle)
            replica.rectangle = begun
        if replica.rectangle is not None:
            replica.rectangle.pad(plan)
        plan.tokens = replica.limits.max_num_batched_tokens - self.budget - self._spared
        if plan.tokens:
            if replica.swap is not None:
                plan.swaps, plan.copying_ps = replica.swap.begin()
            replica.begin(plan)
        return plan

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.replica.limits.block_size)

    def _slots(self, tokens: int) -> int:
        limits = self.replica.limits
        return self._blocks(min(tokens + limits.lookahead_tokens, limits.max_model_len))
