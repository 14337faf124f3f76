"""Data-parallel ranks of one engine: schedulers of their own, steps that begin and end together.

The experts of a model are spread over the ranks and serve every rank's tokens, so no rank runs
ahead: a step lasts as long as the slowest, and a rank with nothing to do takes part with a dummy
batch while another works (vLLM `v1/engine/core.py DPEngineCoreProc`). A leap of the group is the
shortest of its members'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...policies.errors import NoProgressError
from ...policies.types import Picoseconds
from ..state.plan import StepPlan
from .clock import REPLICA, Clock
from .config import Effort
from .leap import Span
from .server import Server, shape_of


class Rank(Server):
    """One rank: a `Server` whose steps begin when its group's do."""

    group: Lockstep

    def _stir(self) -> None:
        self.group.stir()

    def _instant(self) -> Picoseconds:
        return self.group.instant()

    def settle(self, now: Picoseconds) -> None:
        """Account for what has ended."""
        self._settle(now)

    def deliver(self) -> None:
        """Hand over what came in and what ended."""
        self._deliver()

    def schedule(self, now: Picoseconds) -> StepPlan:
        """Let the rank's policy plan its part of the next step; 0 tokens is a dummy batch."""
        plan = self.replica.schedule(now)
        if plan.admissions:
            self._on_admit(plan)
        return plan

    def own(self, plan: StepPlan) -> tuple[Picoseconds, Picoseconds]:
        """(time of the rank's own part, how much it grows if the step is repeated)."""
        if not plan.pure_decode:
            return self.cost.duration_ps(shape_of(plan)) + plan.copying_ps, 0
        rows, context, growth = plan.line
        base, slope, _, _ = self.cost.decode_line(
            rows, context, plan.contexts, plan.group_adapted, plan.group_structured
        )
        return base + slope * context, slope * growth

    def repeats(self, plan: StepPlan) -> int:
        """How often the rank could take *plan*: as its policy, KV and line of time allow."""
        if not plan.pure_decode:
            return 1
        rows, context, growth = plan.line
        until = self.cost.decode_line(
            rows, context, plan.contexts, plan.group_adapted, plan.group_structured
        ).until
        return min(self.replica.repeats(plan), -(-(until - context) // growth))

    def begin(self, plan: StepPlan, span: Span, steps: int) -> None:
        """The group's step, or run of *steps* steps, takes the time of *span*."""
        own = Span(span.start_ps, span.first_ps, span.growth_ps)
        self._spans.append(own)
        if plan.chunks and self._on_begin is not None:
            self._on_begin(plan, own.start_ps, own.end_ps)
        if steps > 1:
            plan.repeat = steps
            own.end_ps = own.end(steps)
            lag = self._depth - 1
            plan.planned_ps = lambda step: own.end(step - lag)

    def cut(self, steps: int) -> None:
        """The run that was begun last is only *steps* long."""
        self.replica.in_flight[-1].repeat = steps
        span = self._spans[-1]
        span.end_ps = span.end(steps)


@dataclass(slots=True)
class Slot:
    """A step in flight, or *repeat* equal ones, of the ranks that are not idle in it."""

    span: Span
    repeat: int
    ranks: list[Rank]


class Lockstep:
    """Drives the ranks of one engine by callbacks at their common step boundaries.

    Args:
        ranks: in order of their numbers; all with the same limits and cost.
    """

    def __init__(self, clock: Clock, ranks: list[Rank], effort: Effort, *, leap: bool) -> None:
        self._clock, self._ranks, self._effort, self._leap = clock, ranks, effort, leap
        self._cost = ranks[0].cost
        self._depth = 2 if ranks[0].replica.limits.async_scheduling else 1
        self._priority = REPLICA + ranks[0].number
        self._slots: list[Slot] = []
        self._wake: Any = None
        self._dozing = False
        for rank in ranks:
            rank.group = self

    def instant(self) -> Picoseconds:
        """Now, or a moment later if the group's boundary at this instant is past."""
        return self._clock.now_ps + self._clock.passed(self._priority)

    def stir(self) -> None:
        """Something came for a rank: decide at the next boundary."""
        if not self._slots:
            if self._wake is None or self._dozing:
                self._dozing = False
                self._wake_at(self._clock.now_ps)
            return
        slot = self._slots[-1]
        if slot.repeat == 1:
            return
        steps = max(slot.span.steps_by(self.instant()) + self._depth - 1, 1)
        if steps < slot.repeat:
            slot.repeat = steps
            slot.span.end_ps = slot.span.end(steps)
            for rank in slot.ranks:
                rank.cut(steps)
            self._wake_at(self._next_decision())

    def _wake_at(self, time_ps: Picoseconds) -> None:
        self._wake = self._clock.at(time_ps, self._priority, self._boundary)

    def _next_decision(self) -> Picoseconds:
        slots = self._slots
        if self._depth == 1:
            return slots[0].span.end_ps
        last = slots[-1]
        return last.span.end(last.repeat - 1) if last.repeat > 1 else slots[0].span.end_ps

    def _boundary(self, callback: object) -> None:
        if callback is not self._wake:
            return  # the leap was cut
        self._wake = None
        self._dozing = False
        self._effort.events += 1
        now = self._clock.now_ps
        for rank in self._ranks:
            rank.settle(now)
        self._settle(now)
        for rank in self._ranks:
            rank.deliver()
        self._plan(now)

    def _settle(self, now: Picoseconds) -> None:
        slots = self._slots
        while slots:
            span, steps = slots[0].span, slots[0].repeat - 1
            if span.end_ps <= now:
                del slots[0]
                continue
            if steps and span.end(steps) <= now:
                slots[0].repeat = 1
                span.start_ps = now
                span.first_ps += steps * span.growth_ps
            break

    def _plan(self, now: Picoseconds) -> None:
        slots = self._slots
        while len(slots) < self._depth:
            running = sum(len(rank.replica.running) for rank in self._ranks)
            plans = [(rank, rank.schedule(now)) for rank in self._ranks]
            busy = [(rank, plan) for rank, plan in plans if plan.tokens]
            if not busy:
                if not slots and sum(len(rank.replica.running) for rank in self._ranks) < running:
                    continue  # all gave way: what they held may serve those in line
                break
            slots.append(self._slot(busy, slots[-1].span.end_ps if slots else now))
        if slots:
            self._wake_at(self._next_decision())
            return
        due = min((at for rank in self._ranks if (at := rank.replica.wakes_ps) > now), default=0)
        if due:
            self._dozing = True
            self._wake_at(due)
            return
        for rank in self._ranks:
            replica = rank.replica
            if replica.stands_still:
                raise NoProgressError(
                    f"replica {rank.number} has {replica.waiting_count} requests waiting and "
                    f"{len(replica.running)} running, and its scheduler plans nothing"
                )

    def _slot(self, busy: list[tuple[Rank, StepPlan]], start: Picoseconds) -> Slot:
        """The time of a step of the group: the slowest rank's own part, and the joint one."""
        times = [rank.own(plan) for rank, plan in busy]
        first, growth = max(times)
        joint = self._cost.joint_ps(sum(plan.computed_tokens for _, plan in busy))
        span = Span(start, first + joint, growth)
        slot = Slot(span, 1, [rank for rank, _ in busy])
        if self._leap and len(self._slots) + 1 == self._depth and not self._may_change(slot.ranks):
            slot.repeat = min(
                *(rank.repeats(plan) for rank, plan in busy), _lead(first, growth, times)
            )
            span.end_ps = span.end(slot.repeat)
        for rank, plan in busy:
            rank.begin(plan, span, slot.repeat)
        return slot

    def _may_change(self, busy: list[Rank]) -> bool:
        """Whether an idle rank may be busy in the next step, or has a step to end before it."""
        idle = (rank.replica for rank in self._ranks if rank not in busy)
        return any(replica.waiting_count or replica.in_flight for replica in idle)


def _lead(first: Picoseconds, growth: Picoseconds, times: list[tuple[int, int]]) -> int:
    """Steps until another rank is slower than the one that lasts *first*, growing by *growth*."""
    return min(
        ((first - other) // (faster - growth) + 1 for other, faster in times if faster > growth),
        default=1 << 62,
    )
