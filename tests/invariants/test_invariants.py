"""What holds in every run: conservation of requests, tokens and blocks, and order in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infersim.scenarios import build, grid, load
from infersim.sim.engine.run import Outcome, simulate
from infersim.sim.engine.server import Server
from infersim.sim.state.content import Contents
from infersim.sim.state.misses import REASONS
from infersim.sim.state.streams import Streams

CASES = {
    "agents, lru": ("agent_loop", ["compare=null", "cluster.kv_blocks=900"]),
    "agents, session-ttl": (
        "agent_loop",
        ["compare=null", "cluster.kv_blocks=900", "policies.eviction=session-ttl"],
    ),
    "chat, tiny KV": ("chat_multiturn", ["compare=null", "cluster.kv_blocks=1500"]),
    "split": ("pd_vs_colocated", []),
    "bursts, synchronous": (
        "bursty_api",
        ["compare=null", "cluster.kv_blocks=700", "cluster.engine.async_scheduling=false"],
    ),
}


def play(name: str, monkeypatch: pytest.MonkeyPatch, *, leap: bool) -> Outcome:
    """The last cell of a case, with the books of every pool verified at every boundary."""
    boundary = Server._boundary

    def checked(self: Server, callback: object) -> None:
        before = self._clock.now_ps
        boundary(self, callback)
        assert self._clock.now_ps >= before
        replica = self.replica
        assert replica.pool.check() == replica.pool.total - replica.pool.free
        assert len(replica.running) <= replica.limits.max_num_seqs
        for plan in replica.in_flight:
            assert 0 < plan.tokens <= replica.limits.max_num_batched_tokens

    monkeypatch.setattr(Server, "_boundary", checked)
    scenario, settings = CASES[name]
    source = load.read(scenario, [*settings, "limits.requests=150"])
    cell = grid.cells(source)[1][-1]
    streams, found = Streams(cell.scenario.seed), build.pools(cell.scenario, source.folders)
    config = build.cluster(cell.scenario, found, source.folders)
    config.routing.rng = streams.get("routing")
    context = min(pool.capacity.max_model_len for pool in found)
    workload = cell.scenario.workload.build(streams, Contents(), source.folders, context)
    limits = build.RunLimits(cell.scenario.limits.requests, None)
    return simulate(config, workload, limits=limits, leap=leap, check=True)


@pytest.mark.parametrize("leap", [True, False], ids=["leaps", "steps"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost(name: str, leap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = play(name, monkeypatch, leap=leap)
    rows: dict[str, Any] = outcome.requests
    assert rows["request_id"].tolist() == list(range(150))
    finished = rows["status"] == "finished"
    assert set(rows["status"]) <= {"finished", "failed", "shed"}
    assert all(reason for reason in rows["reason"][~finished])
    assert not any(rows["reason"][finished])
    one = {key: column[finished] for key, column in rows.items()}
    assert np.all(one["arrival_ps"] <= one["scheduled_ps"])
    assert np.all(one["scheduled_ps"] < one["first_token_ps"])
    assert np.all(one["first_token_ps"] <= one["finish_ps"])
    assert np.all(one["output_tokens"] >= 1)
    missed = sum(one[f"{reason}_tokens"] for reason in REASONS)
    assert np.all(one["hit_tokens"] + missed == one["prompt_tokens"])
    assert np.all((one["preemptions"] > 0) >= (one["recomputed_tokens"] > 0))
    assert outcome.totals["link_bytes"] == one["transfer_bytes"].sum()
    gaps = outcome.itl.samples
    assert gaps == (one["output_tokens"] - 1).sum()
