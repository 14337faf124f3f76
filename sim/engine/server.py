"""One replica in simulated time: it plans steps, lets their time pass, and leaps where it can."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...policies.errors import NoProgressError
from ...policies.types import Picoseconds
from ..cost.base import GradedCost, StepCost
from ..cost.grades import Ledger, delayed
from ..cost.shape import shape_of as shape_of
from ..state.plan import StepPlan
from ..state.replica import Replica
from ..state.sequence import Sequence
from .clock import REPLICA, Clock
from .config import Effort
from .leap import Span


class Server:
    """Drives a `Replica` by callbacks at step boundaries, one event per decision.

    With leaps off every step is an event; with leaps on a run of equal decode steps is one, cut
    at the next boundary when something arrives. Both give the same records, byte for byte.

    Args:
        number: the replica's id; ties at one instant go by it.
        on_end: called with each sequence that ended, in order.
        on_admit: called with each plan that admits requests, or starts to fetch their KV.
        on_begin: called with each plan that is more than decodes of the group, its begin and end.
    """

    def __init__(
        self,
        clock: Clock,
        number: int,
        replica: Replica,
        cost: StepCost,
        effort: Effort,
        *,
        leap: bool,
        on_end: Callable[[Sequence], None],
        on_admit: Callable[[StepPlan], None],
        on_begin: Callable[[StepPlan, Picoseconds, Picoseconds], None] | None = None,
    ) -> None:
        self.number, self.replica, self.cost = number, replica, cost
        self._clock, self._effort, self._leap = clock, effort, leap
        self._timed = cost.timed if isinstance(cost, GradedCost) else None
        replica.measures_contexts = cost.uneven
        self.ledger = Ledger()  #: step time by grade
        self._on_end, self._on_admit, self._on_begin = on_end, on_admit, on_begin
        self._depth = 2 if replica.limits.async_scheduling else 1
        self._wake: Any = None  # the pending callback; older ones are stale
        self._dozing = False  # it is only the scheduler's, which lets requests wait till then
        self._spans: list[Span] = []  # of the plans in flight
        self._inbox: list[Callable[[], None]] = []  # for the next boundary
        self.last_end: Picoseconds = 0  #: of the last finished step
        self.busy_ps: Picoseconds = 0

    # ---- from outside ---------------------------------------------------------------------------

    def submit(self, seq: Sequence) -> None:
        """A request arrives; it is seen at the next decision."""
        self.replica.submit(seq)
        self._stir()

    def tell(self, message: Callable[[], None]) -> None:
        """Do *message* to the replica at the next decision, as workers report with a step."""
        self._inbox.append(message)
        self._stir()

    def _stir(self) -> None:
        plans = self.replica.in_flight
        if not plans:
            if self._wake is None or self._dozing:
                self._dozing = False
                self._wake_at(self._clock.now_ps)
            return
        plan = plans[-1]
        if plan.repeat == 1:
            return
        lag = self._depth - 1
        steps = max(self._spans[-1].steps_by(self._instant()) + lag, 1)
        if steps < plan.repeat:
            plan.repeat = steps
            self._spans[-1].end_ps = self._spans[-1].end(steps)
            self._wake_at(self._next_decision())

    def _instant(self) -> Picoseconds:
        """Now, or a moment later if this replica's boundary at this instant is past."""
        return self._clock.now_ps + self._clock.passed(REPLICA + self.number)

    # ---- steps ----------------------------------------------------------------------------------

    def _wake_at(self, time_ps: Picoseconds) -> None:
        self._wake = self._clock.at(time_ps, REPLICA + self.number, self._boundary)

    def _next_decision(self) -> Picoseconds:
        """When a plan in flight has ended so far that the next one is made."""
        spans = self._spans
        if self._depth == 1:
            return spans[0].end_ps
        repeat = self.replica.in_flight[-1].repeat
        return spans[-1].end(repeat - 1) if repeat > 1 else spans[0].end_ps

    def _boundary(self, callback: object) -> None:
        if callback is not self._wake:
            return  # the leap was cut
        self._wake = None
        self._dozing = False
        self._effort.events += 1
        now = self._clock.now_ps
        self._settle(now)
        if self._inbox or self.replica.finished:
            self._deliver()
        self._plan(now)

    def _settle(self, now: Picoseconds) -> None:
        """Account for the steps in flight that have ended."""
        plans = self.replica.in_flight
        while plans:
            plan, span = plans[0], self._spans[0]
            if span.end_ps <= now:
                self._finish(plan, span, plan.repeat, span.end_ps)
                del self._spans[0]
                continue
            steps = plan.repeat - 1
            if steps < 1 or span.end(steps) > now:
                break
            self._finish(plan, span, steps, now)
            span.start_ps = now
            span.first_ps += steps * span.growth_ps
            break

    def _deliver(self) -> None:
        """What came in since the last boundary goes to the replica, what ended to its clients."""
        if self._inbox:
            messages, self._inbox = self._inbox, []
            for message in messages:
                message()
        replica = self.replica
        if replica.finished:
            ended, replica.finished = replica.finished, []
            for seq in ended:
                self._on_end(seq)

    def _finish(self, plan: StepPlan, span: Span, steps: int, end: Picoseconds) -> None:
        effort, replica, start = self._effort, self.replica, span.start_ps
        effort.steps += steps
        if steps > 1:
            effort.leapt_steps += steps - 1
        if plan.group:
            self._log_gaps(plan.group, span, steps)
        self.last_end = end
        self.busy_ps += end - start
        if span.doubt is not None:
            self.ledger.add(span.doubt, steps, end - start)
        if replica.log is not None:
            replica.log.ended(start, end)
        replica.finish(plan, end, steps)

    def _log_gaps(self, members: int, span: Span, steps: int) -> None:
        gaps, idle = self.replica.gaps, span.start_ps - self.last_end
        if not idle:
            gaps.add(span.first_ps, span.growth_ps, steps, members)
            return
        gaps.add(span.first_ps + idle, 0, 1, members)
        if steps > 1:
            gaps.add(span.first_ps + span.growth_ps, span.growth_ps, steps - 1, members)

    def _plan(self, now: Picoseconds) -> None:
        replica, spans = self.replica, self._spans
        plans = replica.in_flight
        while len(plans) < self._depth:
            running = len(replica.running)
            plan = replica.schedule(now)
            if plan.admissions:
                self._on_admit(plan)
            if not plan.tokens:
                if not plans and len(replica.running) < running:
                    continue  # all gave way: what they held may serve those in line
                break
            span = self._span(plan, spans[-1].end_ps if spans else now)
            spans.append(span)
            if plan.chunks and self._on_begin is not None:
                self._on_begin(plan, span.start_ps, span.end_ps)
        if plans:
            self._wake_at(self._next_decision())
        elif (due := replica.wakes_ps) > now:
            self._dozing = True
            self._wake_at(due)
        elif replica.stands_still:
            raise NoProgressError(
                f"replica {self.number} has {replica.waiting_count} requests waiting and "
                f"{len(replica.running)} running, and its scheduler plans nothing"
            )

    def _span(self, plan: StepPlan, start: Picoseconds) -> Span:
        """The time that a plan takes; where its steps repeat, as many as surely do."""
        if not plan.pure_decode:
            copying_ps = plan.copying_ps
            if self._timed is None:
                return Span(start, self.cost.duration_ps(shape_of(plan)) + copying_ps, 0)
            duration_ps, doubt = self._timed(shape_of(plan))
            return Span(start, duration_ps + copying_ps, 0, delayed(doubt, copying_ps))
        rows, context, growth = plan.line
        base, slope, until, grades = self.cost.decode_line(
            rows, context, plan.contexts, plan.group_adapted, plan.group_structured
        )
        span = Span(start, base + slope * context, slope * growth, grades)
        if self._leap and len(self.replica.in_flight) == self._depth:
            steps = min(self.replica.repeats(plan), -(-(until - context) // growth))
            if steps > 1:
                plan.repeat = steps
                span.end_ps = span.end(steps)
                plan.planned_ps = partial(_planned_ps, span, self._depth - 1)
        return span

    # ---- what others may read in the middle of a leap -------------------------------------------

    def kv_now(self) -> tuple[int, int]:
        """(blocks held, blocks idle but cached) as the step under way has them."""
        return self.replica.kv_at(self._planned())

    def catch_up(self) -> None:
        """Let the replica's pool be as the step under way has it."""
        self.replica.catch_up(self._planned())

    def _planned(self) -> int:
        """The step index, as if every step of a leap were planned when it begins."""
        replica = self.replica
        plan = replica.in_flight[-1] if replica.in_flight else None
        if plan is None or plan.repeat == 1:
            return replica.step_index
        steps = self._spans[-1].steps_by(self._instant()) + self._depth - 1
        return plan.index + min(max(steps, 1), plan.repeat)


def _planned_ps(span: Span, lag: int, step: int) -> Picoseconds:
    """When step number *step* of a leap is planned, *lag* steps ahead of the device."""
    return span.end(step - lag)
