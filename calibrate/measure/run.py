"""Carrying out a plan: rounds in random order, drift anchors, a deadline, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from time import monotonic
from typing import NamedTuple

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
    """

    rounds: int = 3
    repeats: int = 1
    max_drift: float = 0.03

    @classmethod
    def of(cls, kind: str) -> Effort:
        """Less on a CPU, which others use as well and whose speed is never constant."""
        return cls() if kind == "cuda" else cls(3, 1, 0.2)


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
    """

    meter: Meter
    store: Store
    deadline_s: float
    effort: Effort = Effort()
    listen: Callable[[Tick], None] = lambda tick: None
    clock: Callable[[], float] = monotonic
    seed: int = 0

    def carry_out(self, blocks: Sequence[Block]) -> Outcome:
        """Measure what is not measured yet, until the deadline or an interrupt.

        Ctrl-C ends the block under way; what it has measured is written.
        """
        planned = [point for block in blocks for point in block.points]
        outcome = Outcome(len(planned))
        self._end = self.clock() + self.deadline_s
        self._random, self._family = Random(self.seed), ""
        self._total, self._done = (
            len(planned) * self.effort.rounds,
            sum(self.store.rounds().values()),
        )
        try:
            for block in blocks:
                self._block(block, outcome)
                if outcome.stopped:
                    break
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

    def _block(self, block: Block, outcome: Outcome) -> None:
        done = self.store.rounds()
        wanting = [p for p in block.points if done.get(p.key, 0) < self.effort.rounds]
        if not wanting:
            return
        if block.family != self._family:
            self.meter.release()
            self._family = block.family
        before = self.meter.anchor()
        outcome.anchors.append(before)
        first = min(done.get(p.key, 0) for p in wanting)
        for number in range(first, self.effort.rounds):
            due = [p for p in wanting if done.get(p.key, 0) <= number]
            before = self._round(due, number, before, outcome)
            wanting = [p for p in wanting if str(p) not in outcome.refused]
            if outcome.stopped:
                break
        self.store.flush()

    def _round(self, due: Sequence[Point], number: int, before: Anchor, outcome: Outcome) -> Anchor:
        """One round, again where the anchors moved; the anchor after it."""
        for attempt in range(self.effort.repeats + 1):
            found = self._once(due, outcome)
            after = self.meter.anchor()
            drift, told = before.drift(after), self.meter.readings()
            before = after
            is_last = (
                drift <= self.effort.max_drift
                or attempt == self.effort.repeats
                or bool(outcome.stopped)
            )
            self.store.add(
                Sample(point, number, seconds, drift, is_last, told) for point, seconds in found
            )
            if is_last:
                outcome.drifting += drift > self.effort.max_drift
                break
            outcome.repeated += 1
            self._done -= len(due)
        outcome.anchors.append(before)
        return before

    def _once(self, due: Sequence[Point], outcome: Outcome) -> list[tuple[Point, float]]:
        order = list(due)
        self._random.shuffle(order)
        found: list[tuple[Point, float]] = []
        for point in order:
            if self.clock() > self._end:
                outcome.stopped = "deadline"
                break
            try:
                found += [(point, seconds) for seconds in self.meter.samples(point)]
            except KeyboardInterrupt:
                outcome.stopped = "interrupted"
                break
            except (RuntimeError, ValueError, NotImplementedError) as error:
                # out of memory, or a shape that a kernel refuses: the rest is still worth having
                outcome.refused[str(point)] = str(error).split("\n")[0]
            self._done += 1
            self.listen(Tick(self._done, self._total, point.op))
        return found


def _scatter(values: Sequence[float]) -> float:
    middle = median(values)
    return float(median(abs(value / middle - 1) for value in values))
