"""Looks at every replica of a run, in either host, at every plan and every finished step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infersim.sim.state.front import Front
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.kv.radix_pool import RadixPool
from infersim.sim.state.misses import REASONS
from infersim.sim.state.plan import StepPlan
from infersim.sim.state.replica import Replica
from infersim.sim.state.sequence import Sequence, Status
from infersim.sim.state.session import Call
from infersim.sim.state.steps import work_of


class Watch:
    """What must hold at every step.

    Attributes:
        calls: what clients asked, in order.
        longest: context limits of the replicas.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.longest: set[int] = set()
        self.steps = 0
        self._clocks: dict[Replica, int] = {}
        self._reached: dict[Sequence, int] = {}  # KV positions that are planned, of who runs

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Wrap the replicas of all runs inside; they log members, and so do not leap."""
        schedule, finish, submit = Replica.schedule, Replica.finish, Front.submit

        def watched_schedule(replica: Replica, now: int) -> StepPlan:
            plan = schedule(replica, now)
            self._planned(replica, plan, now)
            return plan

        def watched_finish(replica: Replica, plan: StepPlan, now: int, steps: int = 1) -> None:
            finish(replica, plan, now, steps)
            self.steps += steps
            self._tick(replica, now)
            self._books(replica)

        def watched_submit(front: Any, call: Call, answer: Any) -> None:
            self.calls.append(call)
            submit(front, call, answer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Replica, "schedule", watched_schedule)
            patch.setattr(Replica, "finish", watched_finish)
            patch.setattr(Front, "submit", watched_submit)
            yield self

    def _tick(self, replica: Replica, now: int) -> None:
        assert self._clocks.get(replica, 0) <= now, "time went back"
        self._clocks[replica] = now

    def _planned(self, replica: Replica, plan: StepPlan, now: int) -> None:
        """A plan is within the engine's limits, and goes on where each request has come to."""
        self._tick(replica, now)
        limits = replica.limits
        self.longest.add(limits.max_model_len)
        assert len(replica.running) <= limits.max_num_seqs
        assert len(replica.in_flight) <= 1 + limits.async_scheduling
        assert 0 <= plan.tokens <= limits.max_num_batched_tokens
        work = work_of(plan)
        assert plan.tokens == sum(tokens for _, _, tokens in work)
        assert len({number for number, _, _ in work}) == len(work), "twice in one step"
        for seq in plan.preempted:
            self._reached.pop(seq, None)
        found = {one.seq: one.local + one.remote.tokens for one in plan.admissions}
        group = [(seq, plan.index - seq.base, 1, None) for seq in plan.members or ()]
        chunks = [(one.seq, one.start, one.tokens, one.admitted) for one in plan.chunks]
        for seq, start, tokens, admitted in group + chunks:
            assert tokens > 0
            assert seq.status is Status.RUNNING
            if admitted is None:
                assert start == self._reached[seq], "positions left out, or computed twice"
            elif seq in found:
                assert start == found[seq], "what was found is computed, or what was not is missing"
            self._reached[seq] = start + tokens
            assert seq.computed_tokens == start + tokens <= limits.max_model_len
        self._books(replica)

    def _books(self, replica: Replica) -> None:
        """Everyone is in one place, with KV for what is computed; blocks and references add up."""
        lines = [*replica.waiting, *replica.holding, *replica.swapped]
        assert len(set(lines)) == len(lines)
        assert not set(lines) & replica.running.keys()
        pool, size = replica.pool, replica.limits.block_size
        held = pool.check()
        assert held + pool.free == pool.total
        assert 0 <= pool.cached_idle <= pool.free
        for seq in replica.running:
            if seq.base is None:
                assert seq.blocks * size >= seq.computed_tokens
        over = replica.rectangle.over if replica.rectangle is not None else ()
        fenced = [seq for _, seq in replica._fenced]
        owners = list(dict.fromkeys([*replica.running, *lines, *replica.sending, *over, *fenced]))
        if isinstance(pool, BlockPool):
            used = Counter(block for seq in owners for block in seq.table)
            references = {block: count for block, count in enumerate(pool._ref) if count}
            assert used == references, "references do not add up"
        elif isinstance(pool, RadixPool):
            locks: Counter[Any] = Counter()
            for seq in owners:
                node = seq.node
                while node is not None and node.parent is not None:
                    locks[node] += 1
                    node = node.parent
            assert all(node.locks == count for node, count in locks.items())
            assert sum(node.blocks for node in locks) == pool.index.protected
            own = sum(seq.blocks - seq.committed for seq in owners)
            assert held == pool.index.protected + own + pool._group_blocks

    def verify(self, outcome: Any) -> None:
        """Every call is accounted for, in whole tokens and in order of time."""
        rows = {name: column.tolist() for name, column in outcome.requests.items()}
        assert rows["request_id"] == list(range(len(self.calls)))
        longest = min(self.longest, default=0)
        totals, gaps = outcome.totals, 0
        for i, call in enumerate(self.calls):
            row = {name: column[i] for name, column in rows.items()}
            prompt = sum(segment.tokens for segment in call.prompt)
            assert row["prompt_tokens"] == prompt
            if row["status"] != "finished":
                assert row["status"] in ("failed", "shed")
                assert row["reason"]
                assert row["output_tokens"] == 0
                continue
            assert not row["reason"]
            cap = call.max_tokens if call.max_tokens is not None else longest
            assert row["output_tokens"] == min(call.output_tokens, cap, longest - prompt)
            gaps += row["output_tokens"] - 1
            names = ("arrival", "scheduled", "first_token", "finish")
            times = [row[f"{name}_ps"] for name in names]
            assert times == sorted(times)
            assert times[1] < times[2]
            misses = [row[f"{reason}_tokens"] for reason in REASONS]
            assert min(misses) >= 0
            assert row["hit_tokens"] + sum(misses) == prompt
            assert 0 <= row["hit_tokens"] < prompt
            assert 0 <= row["remote_tokens"] <= prompt
            lost = row["preemptions"] or totals.get("failed_transfers")
            assert bool(row["recomputed_tokens"]) <= bool(lost)
        assert outcome.itl.samples == gaps
        assert totals["steps"] == self.steps
        assert totals["preemptions"] == sum(rows["preemptions"])
        assert totals["simulated_ps"] >= max(self._clocks.values(), default=0)


@pytest.fixture
def watch() -> type[Watch]:
    """Makes a `Watch`."""
    return Watch
