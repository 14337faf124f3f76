"""By how soon the agents of a workflow run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import PS_PER_S, CachedBlock, Picoseconds, Promise, Request, WorkflowHint
from .base import Key
from .queues import QueuedEviction, Queues

NOBODY = 0  #: the queue of what belongs to no agent's fixed prompt


@dataclass(slots=True)
class Owners:
    """Which agents begin their prompts with which units, and a queue for each set of agents."""

    lengths: dict[str, int] = field(default_factory=dict)  # agent -> tokens of its fixed prompt
    sets: dict[int, frozenset[str]] = field(default_factory=lambda: {NOBODY: frozenset()})
    _queues: dict[frozenset[str], int] = field(default_factory=lambda: {frozenset(): NOBODY})
    _units: dict[int, list[int]] = field(default_factory=dict)  # key -> [queue, copies]
    _members: dict[int, int] = field(default_factory=dict)  # queue -> units
    _opened: int = 0

    def queue(self, block: CachedBlock) -> int:
        """The queue of a unit."""
        unit = self._units.get(block.key)
        return NOBODY if unit is None else unit[0]

    def insert(self, block: CachedBlock) -> None:
        """One more unit, of nobody's unless another has the same content."""
        unit = self._units.get(block.key)
        if unit is None:
            self._units[block.key] = [NOBODY, 1]
        else:
            unit[1] += 1

    def drop(self, block: CachedBlock) -> None:
        """One unit less."""
        unit = self._units.get(block.key)
        if unit is None:
            return
        unit[1] -= 1
        if not unit[1]:
            self._move(unit, NOBODY)
            del self._units[block.key]

    def add(self, block: CachedBlock, agents: frozenset[str]) -> bool:
        """*agents* use the unit, those at least whose fixed prompt reaches into it.

        Returns whether it opened a queue.
        """
        unit = self._units[block.key]
        before = self.sets[unit[0]]
        end = (block.position + 1) * block.block_size
        after = before | {agent for agent in agents if self.lengths[agent] >= end}
        return after != before and self._move(unit, self._queue_of(after))

    def split(self, head: CachedBlock, tail: CachedBlock) -> bool:
        """A unit was cut: each part belongs to those whose fixed prompt reaches into it."""
        agents = self.sets[self.queue(tail)]
        self.drop(tail)
        opened = False
        for part in (head, tail):
            self.insert(part)
            opened |= self.add(part, agents)
        return opened

    def prune(self, queues: Queues) -> None:
        """Forget sets of agents that own nothing any more."""
        for queue in [q for q in self.sets if q and not self._members[q] and not queues.lengths[q]]:
            del self._queues[self.sets.pop(queue)]
            del self._members[queue]

    def _queue_of(self, agents: frozenset[str]) -> int:
        queue = self._queues.get(agents)
        if queue is None:
            self._opened += 1
            queue = self._queues[agents] = self._opened
            self.sets[queue], self._members[queue] = agents, 0
        return queue

    def _move(self, unit: list[int], queue: int) -> bool:
        """Returns whether the queue had no unit before."""
        if unit[0]:
            self._members[unit[0]] -= 1
        unit[0] = queue
        if queue:
            self._members[queue] += 1
        return queue > 0 and self._members[queue] == 1


@eviction("workflow-aware")
@dataclass(slots=True)
class WorkflowAware(QueuedEviction):
    """What no agent begins its prompts with, then agents by how far away their next run is.

    The eviction of KVFlow (Pan et al., arXiv:2507.07400, 3.1): agents of a workflow run in a
    known order, and each begins with a fixed prompt. A request says who calls, where its fixed
    prompt ends and how many steps away each agent's next run is (`Request.workflow`). A unit of
    fixed prompts is as far away as the nearest run of any agent that shares it, in any workflow;
    all else is used up, and so is what only finished workflows used. The furthest leaves first,
    equals as in lru: without such requests this is lru. Their prefetch from host memory is not
    part of it.

    Attributes:
        forget_s: a workflow that has said nothing for so long counts as finished, seconds.
    """

    promise: ClassVar[Promise] = Promise(queues=True, tail_first=True)
    on_leaves: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"key", "position", "block_size"})

    forget_s: float = 300.0

    _owners: Owners = field(default_factory=Owners, init=False, repr=False, compare=False)
    #: what each workflow said last: request, time, steps by agent; the longest silent first
    _said: dict[int, tuple[int, Picoseconds, dict[str, int]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _now: Picoseconds = field(default=0, init=False, repr=False, compare=False)
    #: queues with their distance, the furthest first; None: to be made anew
    _order: list[tuple[float, int]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        number = isinstance(self.forget_s, int | float) and not isinstance(self.forget_s, bool)
        if not number or not isfinite(self.forget_s) or self.forget_s <= 0:
            raise InputError(
                f"forget_s of workflow-aware ({self.forget_s!r}) must be a finite number above 0"
            )

    def cuts(self, request: Request) -> tuple[int, ...]:
        return () if request.workflow is None else (request.workflow.fixed_tokens,)

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        self._now = max(self._now, now)
        self._forget()
        return (self._owners.queue(block),)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        self._owners.insert(block)
        self._used(block, request)

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        self._used(block, request)

    def on_split(self, head: CachedBlock, tail: CachedBlock) -> None:
        if self._owners.split(head, tail):
            self._order = None

    def on_evict(self, block: CachedBlock) -> None:
        self._owners.drop(block)

    def pick(self, queues: Queues) -> int:
        if self._order is None:
            self._owners.prune(queues)
            self._order = self._ranked()
        found, furthest = -1, -inf
        for steps, queue in self._order:
            if not queues.lengths[queue]:
                continue
            if found >= 0 and steps < furthest:
                break
            if found < 0 or queues.place(queue) < queues.place(found):
                found, furthest = queue, steps
        return found

    def _used(self, block: CachedBlock, request: Request | None) -> None:
        if request is None or request.workflow is None:
            return
        hint = request.workflow
        self._owners.lengths[hint.agent] = hint.fixed_tokens
        self._hear(request.id, hint)
        if self._owners.add(block, frozenset((hint.agent,))):
            self._order = None

    def _hear(self, number: int, hint: WorkflowHint) -> None:
        """Take in what request *number* says, unless its workflow has said something since."""
        last = self._said.get(hint.workflow)
        if last is not None and last[0] >= number:
            return
        self._said.pop(hint.workflow, None)
        self._said[hint.workflow] = (number, self._now, dict(hint.steps))
        self._order = None

    def _forget(self) -> None:
        """Let go of workflows that have been silent for too long."""
        limit = self._now - round(self.forget_s * PS_PER_S)
        while self._said:
            workflow = next(iter(self._said))
            if self._said[workflow][1] >= limit:
                break
            del self._said[workflow]
            self._order = None

    def _ranked(self) -> list[tuple[float, int]]:
        nearest: dict[str, float] = {}
        for _, _, steps in self._said.values():
            for agent, distance in steps.items():
                nearest[agent] = min(nearest.get(agent, inf), distance)
        return sorted(
            (
                (min((nearest.get(agent, inf) for agent in agents), default=inf), queue)
                for queue, agents in self._owners.sets.items()
            ),
            key=lambda one: (-one[0], one[1]),
        )
