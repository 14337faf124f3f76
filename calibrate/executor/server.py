"""One replica over a device: it plans steps, has them computed and accounts for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter_ns

from ...policies.errors import InputError, NoProgressError
from ...policies.types import Picoseconds
from ...sim.cost.base import StepCost
from ...sim.cost.grades import Doubt, Ledger, delayed
from ...sim.cost.shape import timed
from ...sim.state.plan import StepPlan
from ...sim.state.replica import Replica
from ...sim.state.sequence import Sequence
from ...sim.state.ties import REPLICA
from .batch import Row, batch_of, rows_of
from .clock import PS_PER_NS, Clock
from .pictures import Sight
from .runner import Done, StepRunner, Ticket
from .texts import Texts


@dataclass(slots=True)
class Flight:
    """A step under way.

    Attributes:
        end_ps: by the cost model; on a real clock, when it ended.
        schedule_ps: what planning it took the host.
        rows: whose tokens come back, in order.
        doubt: how the cost model came by its time.
        done: what came back.
    """

    plan: StepPlan
    start_ps: Picoseconds
    end_ps: Picoseconds
    schedule_ps: Picoseconds
    rows: list[Row]
    ticket: Ticket
    doubt: Doubt | None
    done: Done | None = None


class Server:
    """Drives a `Replica` step by step, on either clock.

    Args:
        number: the replica's id; ties at one instant go by it.
        texts: tokens of its requests.
        on_end, on_admit, on_begin: as in the simulator's server.

    Attributes:
        answers: request id -> position -> the token that the model sampled for it.
        sight: which embeddings its device holds.
    """

    def __init__(
        self,
        clock: Clock,
        number: int,
        replica: Replica,
        cost: StepCost,
        runner: StepRunner,
        texts: Texts,
        *,
        on_end: Callable[[Sequence], None],
        on_admit: Callable[[StepPlan], None],
        on_begin: Callable[[StepPlan, Picoseconds, Picoseconds], None] | None = None,
    ) -> None:
        self.number, self.replica, self.runner = number, replica, runner
        self._clock, self._cost, self._texts = clock, cost, texts
        self.sight = Sight(replica.encoder, texts)
        self._on_end, self._on_admit, self._on_begin = on_end, on_admit, on_begin
        self._depth = 2 if replica.limits.async_scheduling else 1
        self._flights: deque[Flight] = deque()
        self._wake: object = None  # the pending callback
        self._dozing = False  # it is only the scheduler's, which lets requests wait till then
        self._inbox: list[Callable[[], None]] = []  # for the next boundary
        self.answers: dict[int, dict[int, int]] = {}
        self.last_end: Picoseconds = 0
        self.busy_ps: Picoseconds = 0
        self.device_ps: Picoseconds = 0
        self.steps = 0
        self.ledger = Ledger()  #: step time by grade, on a virtual clock
        replica.log_members, replica.measures_contexts = True, cost.uneven

    # ---- from outside ---------------------------------------------------------------------------

    def submit(self, seq: Sequence) -> None:
        """A request arrives; it is seen at the next decision.

        Raises:
            InputError: the model cannot compute it.
        """
        self._texts.of(seq)
        self.replica.submit(seq)
        self._stir()

    def tell(self, message: Callable[[], None]) -> None:
        """Do *message* to the replica at the next decision."""
        self._inbox.append(message)
        self._stir()

    def catch_up(self) -> None:
        """The pool is always as the step under way has it: nothing leaps here."""

    def kv_now(self) -> tuple[int, int]:
        """(blocks held, blocks idle but cached)."""
        return self.replica.kv_at(self.replica.step_index)

    def _stir(self) -> None:
        if not self._flights and (self._wake is None or self._dozing):
            self._dozing = False
            self._wake = self._clock.at(self._clock.now_ps, REPLICA + self.number, self.boundary)

    # ---- steps ----------------------------------------------------------------------------------

    @property
    def waitable(self) -> Connection | None:
        """Readable when the oldest step in flight is computed; None: just wait for it."""
        return self.runner.waitable

    def wait(self) -> None:
        """Block until the oldest step in flight is computed; it ends now."""
        flight = self._flights[0]
        flight.done = flight.ticket.wait()
        flight.end_ps = self._clock.now_ps
        if len(self._flights) > 1:
            self._flights[1].start_ps = flight.end_ps

    def boundary(self, callback: object) -> None:
        """Account for what ended, hand over what came, plan what is next."""
        if callback is not self._wake:
            return  # it was only to be asked again, and something came before
        self._wake = None
        self._dozing = False
        flights, start = self._flights, self._clock.now_ps
        while flights and flights[0].end_ps <= self._clock.now_ps and self._computed(flights[0]):
            start = flights[0].end_ps  # what is done from here on is the next step's time
            self._finish(flights.popleft())
        if self._inbox:
            messages, self._inbox = self._inbox, []
            for message in messages:
                message()
        ended, self.replica.finished = self.replica.finished, []
        for seq in ended:
            self._texts.forget(seq)
            self._on_end(seq)
        self._plan(self._clock.now_ps, start)

    def _computed(self, flight: Flight) -> bool:
        """Whether the step has ended; on a virtual clock the host waits for it here."""
        if flight.done is None and self._clock.virtual:
            flight.done = flight.ticket.wait()
        return flight.done is not None

    def _finish(self, flight: Flight) -> None:
        begun = perf_counter_ns()
        plan, end, done, replica = flight.plan, flight.end_ps, flight.done, self.replica
        assert done is not None
        sampled = (row for row in flight.rows if row.samples)
        for row, token in zip(sampled, done.tokens, strict=True):
            self.answers.setdefault(row.seq.id, {})[row.start + row.tokens] = token
        if plan.group:
            replica.gaps.add(end - self.last_end, 0, 1, plan.group)
        self.last_end = end
        self.busy_ps += end - flight.start_ps
        self.device_ps += done.device_ps
        self.steps += 1
        if flight.doubt is not None and self._clock.virtual:
            self.ledger.add(flight.doubt, 1, end - flight.start_ps)
        replica.finish(plan, end)
        if replica.log is not None:
            account_ps = (perf_counter_ns() - begun) * PS_PER_NS
            replica.log.ended(
                flight.start_ps,
                end,
                done.mode,
                done.bucket,
                flight.schedule_ps,
                done.prepare_ps,
                done.launch_ps,
                done.wait_ps,
                account_ps,
                done.device_ps,
            )

    def _plan(self, now: Picoseconds, start: Picoseconds) -> None:
        replica, flights = self.replica, self._flights
        while len(flights) < self._depth:
            running = len(replica.running)
            begun = perf_counter_ns()
            plan = replica.schedule(now)
            schedule_ps = (perf_counter_ns() - begun) * PS_PER_NS
            if plan.admissions:
                self._on_admit(plan)
            self.sight.planned(plan)
            if not plan.tokens:
                if not flights and len(replica.running) < running:
                    continue  # all gave way: what they held may serve those in line
                break
            self._launch(plan, flights[-1].end_ps if flights else start, schedule_ps)
        if flights:
            self._wake = self._clock.end_of(self, flights[0].end_ps)
        elif (due := replica.wakes_ps) > now:
            self._dozing = True
            self._wake = self._clock.at(due, REPLICA + self.number, self.boundary)
        elif replica.stands_still:
            raise NoProgressError(
                f"replica {self.number} has {replica.waiting_count} requests waiting and "
                f"{len(replica.running)} running, and its scheduler plans nothing"
            )

    def _launch(self, plan: StepPlan, start: Picoseconds, schedule_ps: Picoseconds) -> None:
        """Have *plan* computed, after what is in flight.

        Raises:
            InputError: on a real clock, a batch that is padded: rows of padding are not computed.
        """
        batch = self.replica.rectangle
        padded = batch is not None and (batch.pad_prompts or batch.pad_ended)
        if padded and not self._clock.virtual:
            raise InputError(
                "the executor computes no padding: steps of a padded batch would be too short on a "
                "real clock",
                where="policies.scheduling",
                help="--clock virtual takes their time from the cost model",
            )
        duration, doubt = timed(self._cost, plan)
        if plan.copying_ps:
            duration, doubt = duration + plan.copying_ps, delayed(doubt, plan.copying_ps)
        rows = rows_of(plan)
        size, pictures = self.replica.limits.block_size, self.sight.of(rows)
        ticket = self.runner.launch(batch_of(rows, self._texts, size, pictures))
        self._flights.append(
            Flight(plan, start, start + duration, schedule_ps, rows, ticket, doubt)
        )
        if plan.chunks and self._on_begin is not None:
            self._on_begin(plan, start, start + duration)
