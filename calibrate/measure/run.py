"""Carrying out a plan: rounds in random order, drift anchors, a deadline, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from time import monotonic
from typing import NamedTuple

from ..executor.pace import Paced, pace_between
from .meter import Anchor, Meter
from .point import Block, Point
from .store import Sample, Store

ESSENTIAL = ("decode_attention", "prefill_attention")


@dataclass(frozen=True)
class Effort:
    """How much is done for a point.

    Attributes:
        rounds: of every point, each in another order.
        repeats: of a round that drifts, at most.
        max_drift: of an anchor within a round; more, and the round is repeated.
        spread: the whole plan in its first round, then in its second, …; else the rounds of a
            block follow each other.
        more: rounds at most after those, of points that were only measured at another pace of the
            host than most; where its pace is taken.
    """

    rounds: int = 3
    repeats: int = 1
    max_drift: float = 0.03
    spread: bool = False
    more: int = 0

    @classmethod
    def of(cls, kind: str) -> Effort:
        """What the device calls for.

        A GPU that is ours alone is steady, and its plan may be cut off by the deadline: block by
        block, what matters most is measured in full, and its inputs are built once. Others use a
        CPU as well and slow it down for seconds: the rounds of a point lie as far apart as they
        can, and anchors that moved say nothing that another try would mend.
        """
        return cls() if kind == "cuda" else cls(3, 0, 0.2, spread=True, more=4)


class Tick(NamedTuple):
    """How far a plan is.

    Attributes:
        done, total: rounds of points, those of earlier runs included.
        doing: the block under way, as "decode_attention".
    """

    done: int
    total: int
    doing: str


@dataclass
class Outcome:
    """What a run of a plan came to.

    Attributes:
        planned, measured: points of the plan, and those with at least one round.
        stopped: "" for a whole plan, else why it ended: "deadline" or "interrupted".
        repeated: rounds that were measured again because the device drifted.
        drifting: blocks whose last try still drifted.
        refused: points that the device could not run, and why.
        anchors: every reading.
        enough: attention was measured, so there can be a profile.
    """

    planned: int
    measured: int = 0
    stopped: str = ""
    repeated: int = 0
    drifting: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    anchors: list[Anchor] = field(default_factory=list)
    enough: bool = False

    @property
    def drift(self) -> float:
        """How far the anchors typically were from their median, the worse of both."""
        if not self.anchors:
            return 0.0
        columns = list(zip(*self.anchors, strict=True))
        return max(_scatter(column) for column in columns)


@dataclass
class Runner:
    """Measures blocks of points into a store.

    Args:
        clock: seconds; only differences count.
        pace: nanoseconds of fixed work on the host; None: the host is not what is measured.
    """

    meter: Meter
    store: Store
    deadline_s: float
    effort: Effort = Effort()
    listen: Callable[[Tick], None] = lambda tick: None
    clock: Callable[[], float] = monotonic
    seed: int = 0
    pace: Callable[[], int] | None = None

    def carry_out(self, blocks: Sequence[Block]) -> Outcome:
        """Measure what is not measured yet, until the deadline or an interrupt.

        Ctrl-C ends the block under way; what it has measured is written.
        """
        planned = [point for block in blocks for point in block.points]
        outcome = Outcome(len(planned))
        self._end = self.clock() + self.deadline_s
        self._random, self._family = Random(self.seed), ""
        self._last: Block | None = None
        self._total, self._done = (
            len(planned) * self.effort.rounds,
            sum(self.store.rounds().values()),
        )
        try:
            for block, number in self._order(blocks):
                if not outcome.stopped:
                    self._turn(block, number, outcome)
            for number in range(self.effort.rounds, self.effort.rounds + self.effort.more):
                self._again(blocks, number, outcome)
        except KeyboardInterrupt:
            outcome.stopped = "interrupted"
        finally:
            self.store.facts |= self.meter.facts
            self.store.flush()
        done = self.store.rounds()
        outcome.measured = sum(point.key in done for point in planned)
        ops = {op for op, variant, _ in done if not variant}
        outcome.enough = all(op in ops for op in ESSENTIAL)
        return outcome

    def _order(self, blocks: Sequence[Block]) -> list[tuple[Block, int]]:
        """Blocks with the number of a round, as they are to be measured."""
        rounds = range(self.effort.rounds)
        if self.effort.spread:
            return [(block, number) for number in rounds for block in blocks]
        return [(block, number) for block in blocks for number in rounds]

    def _again(self, blocks: Sequence[Block], number: int, outcome: Outcome) -> None:
        """A further round of what was only measured while the host was faster or slower."""
        off, done = self.store.off_pace(), self.store.rounds()
        for block in blocks:
            due = [p for p in block.points if p.key in off and done.get(p.key, 0) <= number]
            if not outcome.stopped:
                self._total += len(due)
                self._turn(block._replace(points=tuple(due)), number, outcome)

    def _turn(self, block: Block, number: int, outcome: Outcome) -> None:
        """A block's round, of the points that have not had it; refused ones are not tried again."""
        done = self.store.rounds()
        due = [p for p in block.points if done.get(p.key, 0) <= number]
        due = [p for p in due if str(p) not in outcome.refused]
        if not due:
            return
        if block.family != self._family:
            self.meter.release()
            self._family = block.family
        if block is not self._last:
            self._last, self._anchor = block, self.meter.anchor()
            outcome.anchors.append(self._anchor)
        self._round(due, number, outcome)
        self.store.flush()

    def _round(self, due: Sequence[Point], number: int, outcome: Outcome) -> None:
        """One round, again where the anchors moved."""
        for attempt in range(self.effort.repeats + 1):
            found = self._once(due, outcome)
            after = self.meter.anchor()
            drift, told = self._anchor.drift(after), self.meter.readings()
            self._anchor = after
            is_last = (
                drift <= self.effort.max_drift
                or attempt == self.effort.repeats
                or bool(outcome.stopped)
            )
            self.store.add(
                Sample(point, number, float(s), drift, is_last, told, getattr(s, "pace_s", 0.0))
                for point, s in found
            )
            if is_last:
                outcome.drifting += drift > self.effort.max_drift
                break
            outcome.repeated += 1
            self._done -= len(due)
        outcome.anchors.append(self._anchor)

    def _once(self, due: Sequence[Point], outcome: Outcome) -> list[tuple[Point, float]]:
        order = list(due)
        self._random.shuffle(order)
        found: list[tuple[Point, float]] = []
        for point in order:
            if self.clock() > self._end:
                outcome.stopped = "deadline"
                break
            try:
                found += [(point, seconds) for seconds in self._samples(point)]
            except KeyboardInterrupt:
                outcome.stopped = "interrupted"
                break
            except (RuntimeError, ValueError, NotImplementedError) as error:
                # out of memory, or a shape that a kernel refuses: the rest is still worth having
                outcome.refused[str(point)] = str(error).split("\n")[0]
            self._done += 1
            self.listen(Tick(self._done, self._total, point.op))
        return found

    def _samples(self, point: Point) -> list[float]:
        """Of a point, with the host's pace where it is taken."""
        if self.pace is None:
            return self.meter.samples(point)
        before_ns = self.pace()
        times = self.meter.samples(point)
        pace_s = pace_between(before_ns / 1e9, self.pace() / 1e9)
        return [time if isinstance(time, Paced) else Paced.of(time, pace_s) for time in times]


def _scatter(values: Sequence[float]) -> float:
    middle = median(values)
    return float(median(abs(value / middle - 1) for value in values))
