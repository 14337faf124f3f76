"""The step log: one row a step and replica, the same from every host that decides the same.

Nothing is kept per step unless a log is attached (`Replica.log`); hosts then take every step by
itself, without leaps, which changes no decision and no time.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np

from ...policies.types import Picoseconds
from .plan import StepPlan
from .records import Columns

#: steps.parquet: name -> numpy dtype ("str" for text)
STEP_COLUMNS: dict[str, str] = {
    "replica": "int32",
    "step": "int64",  # from 0, executed steps only
    "start_ps": "int64",
    "end_ps": "int64",
    "decodes": "int32",  # sequences that compute one token
    "decode_context_tokens": "int64",  # KV tokens that these read, their new ones included
    "prefill_chunks": "int32",  # sequences that compute two tokens or more
    "prefill_tokens": "int64",
    "prefill_context_tokens": "int64",  # KV tokens before the chunks, summed
    "samples": "int32",  # rows through the LM head
    "admitted": "int32",  # prefix lookups that led to an allocation, those after preemptions too
    "preempted": "int32",
    "hit_tokens": "int64",  # what the admitted found in the replica's own cache
    "remote_tokens": "int64",  # what they fetch from elsewhere
    "digest": "uint64",  # who computes how many tokens from where, who came, who gave way
}

#: what a host with a real device adds; times are of the host's clock, in ps, -1 where not taken
MEASURED_COLUMNS: dict[str, str] = {
    "mode": "str",  # graph | eager
    "bucket": "int32",  # rows that a graph is padded to; 0: eager
    "schedule_ps": "int64",  # the policy plans
    "prepare_ps": "int64",  # inputs are built and sent to the device
    "launch_ps": "int64",  # the forward is handed to the device (on a CPU: computed)
    "wait_ps": "int64",  # the host waits for the step's tokens
    "account_ps": "int64",  # the replica books the outcome
    "device_ps": "int64",  # first to last kernel, by the device's own events
    "pace_ps": "int64",  # fixed work after the step, where the host computes it (a CPU)
}


class StepLog:
    """Rows of every replica, in the order in which steps end.

    Args:
        measured: the rows have `MEASURED_COLUMNS` as well.
        pace_ps: called after each step for its column; None: it is -1.
    """

    def __init__(self, *, measured: bool = False, pace_ps: Callable[[], int] | None = None) -> None:
        self._rows = Columns(STEP_COLUMNS | (MEASURED_COLUMNS if measured else {}))
        self._pace_ps = pace_ps

    def replica(self, number: int) -> ReplicaSteps:
        """The part of replica *number*, to be attached as `Replica.log`."""
        return ReplicaSteps(number, self._rows, self._pace_ps)

    def __len__(self) -> int:
        return len(self._rows)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The columns."""
        return self._rows.arrays()


class ReplicaSteps:
    """Steps of one replica: described when planned, written when ended."""

    def __init__(
        self, number: int, rows: Columns, pace_ps: Callable[[], int] | None = None
    ) -> None:
        self._number, self._rows, self._pace_ps = number, rows, pace_ps
        self._planned: deque[tuple[int, ...]] = deque()
        self._idle: list[StepPlan] = []  # plans of no tokens, which are not executed

    def planned(self, plan: StepPlan) -> None:
        """The replica has begun *plan*; what plans of no tokens did before counts with it."""
        if not plan.tokens:
            if plan.admissions or plan.preempted:
                self._idle.append(plan)
            return
        plans = [*self._idle, plan]
        self._idle.clear()
        decodes, context, samples = plan.group, plan.group_context_tokens, plan.group
        chunks = tokens = before = 0
        for chunk in plan.chunks:
            if chunk.tokens == 1:
                decodes += 1
                context += chunk.start + 1
            else:
                chunks += 1
                tokens += chunk.tokens
                before += chunk.start
            samples += chunk.samples * (1 + chunk.drafts)
        admissions = [one for each in plans for one in each.admissions]
        self._planned.append(
            (
                plan.index,
                decodes,
                context,
                chunks,
                tokens,
                before,
                samples,
                len(admissions),
                sum(len(each.preempted) for each in plans),
                sum(one.local for one in admissions),
                sum(one.remote.tokens for one in admissions),
                digest(plans),
            )
        )

    def ended(self, start: Picoseconds, end: Picoseconds, *measured: Any) -> None:
        """The oldest planned step ran from *start* to *end*.

        Args:
            measured: as `MEASURED_COLUMNS`, but for the pace, which the log takes itself.
        """
        index, *rest = self._planned.popleft()
        if measured:
            measured += (self._pace_ps() if self._pace_ps is not None else -1,)
        self._rows.append(self._number, index, start, end, *rest, *measured)


def work_of(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(request id, first position, tokens) of everything a plan computes, in its order.

    The order is that of the batch: a decode group is only taken whole where all of it was admitted
    before everyone else. The plan must be fresh, with its `members` logged.
    """
    group = plan.members or ()
    work = [(seq.id, plan.index - seq.base, 1) for seq in group if seq.base is not None]
    return work + [(chunk.seq.id, chunk.start, chunk.tokens) for chunk in plan.chunks]


def digest(plans: list[StepPlan]) -> int:
    """64 bits of BLAKE2b over all that was decided in *plans*, the last being executed."""
    words = array("q")
    for plan in plans:
        work = work_of(plan)
        words.append(len(work))
        for entry in work:
            words.extend(entry)
        words.append(len(plan.admissions))
        for seq, queried, local, remote, resumed in plan.admissions:
            words.extend((seq.id, queried, local, remote.tokens, resumed))
        words.append(len(plan.preempted))
        words.extend(seq.id for seq in plan.preempted)
        for move in plan.swaps:
            words.extend((move.seq.id, move.out, move.blocks))
    return int.from_bytes(blake2b(words.tobytes(), digest_size=8).digest(), "little")
