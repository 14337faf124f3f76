"""Fake but consistent run records: an agent loop on two replicas, without an engine."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from infersim.sim.state.records import (
    REQUEST_COLUMNS,
    SERIES_COLUMNS,
    CellRecords,
    Columns,
    GapHistogram,
)

PS = 10**12
MISS_PS = 250_000_000
EVICTIONS = {
    "lru": 0.72,
    "lfu": 0.60,
    "fifo": 0.55,
    "gdsf": 0.74,
    "session-ttl": 0.86,
    "random": 0.5,
}
ROUTINGS = {"round-robin": 0.55, "session-sticky": 1.0}
SEGMENTS = ("system", "tools", "developer", "history", "tool result")


def request_row(**given: Any) -> tuple[Any, ...]:
    """A row of requests.parquet: zero tokens, no times, finished, unless *given*."""
    base: dict[str, Any] = {
        name: "" if dtype == "str" else (-1 if name.endswith("_ps") else 0)
        for name, dtype in REQUEST_COLUMNS.items()
    }
    base |= {name: 0 for name in base if name.endswith(("seen_ps", "ted_ps", "ged_ps", "ere_ps"))}
    base |= {"arrival_ps": 0, "rounding_ps": 0, "status": "finished", "session": -1, "replica": -1}
    unknown = set(given) - set(base)
    assert not unknown, unknown
    return tuple((base | given).values())


def totals_of(**given: int) -> dict[str, int]:
    """Counters of a cell."""
    base = {"steps": 0, "preemptions": 0, "evicted_blocks": 0, "simulated_ps": 0, "busy_ps": 0}
    return base | {"replicas": 1, "kv_blocks": 1000, "link_bytes": 0, "link_busy_ps": 0} | given


def _tokens(rng: np.random.Generator, turn: int, keep: float) -> dict[str, Any]:
    prompt = int(3200 + turn * 900 + rng.integers(0, 400))
    reusable = 3000 if turn == 0 else prompt - int(rng.integers(300, 900))
    hit = int(reusable * (0.4 if turn == 0 else keep) * rng.uniform(0.85, 1.0)) // 16 * 16
    missed = prompt - hit
    fresh = min(missed, prompt - reusable)
    rest = missed - fresh
    evicted = int(rest * 0.6)
    diverged = int(rest * 0.15)
    elsewhere = rest - evicted - diverged
    rounding = min(fresh, 11)
    values = {
        "never_seen": fresh - rounding,
        "evicted": evicted,
        "diverged": diverged,
        "elsewhere": elsewhere,
        "rounding": rounding,
    }
    row: dict[str, Any] = {"prompt_tokens": prompt, "hit_tokens": hit}
    for name, tokens in values.items():
        row[f"{name}_tokens"] = tokens
        row[f"{name}_ps"] = tokens * MISS_PS
    return row | {"first_miss": SEGMENTS[int(rng.integers(0, len(SEGMENTS)))]}


def fake_cell(
    name: str = "one",
    params: dict[str, Any] | None = None,
    *,
    keep: float = 0.8,
    sessions: int = 48,
    turns: int = 12,
    seed: int = 1,
    kv_blocks: int = 12_000,
    **cell: Any,
) -> CellRecords:
    """A cell of *sessions* agents that share two replicas of ten slots each."""
    rng = np.random.default_rng(seed)
    rows = Columns(REQUEST_COLUMNS)
    itl = GapHistogram()
    slots = [[0] * 10, [0] * 10]
    starts = np.cumsum(rng.exponential(1.5, sessions))
    queue = [(int(start * PS), i, 0) for i, start in enumerate(starts)]
    heapq.heapify(queue)
    ids = itertools.count()
    busy = preempted = 0
    while queue:
        arrival, session, turn = heapq.heappop(queue)
        replica = session % 2
        at = max(arrival, heapq.heappop(slots[replica]))
        row = _tokens(rng, turn, keep)
        missed = row["prompt_tokens"] - row["hit_tokens"]
        first = at + missed * MISS_PS + PS // 20
        output = int(rng.integers(40, 400))
        gap = int(rng.uniform(0.018, 0.04) * PS)
        preemptions = int(rng.random() < 0.06 * (1 - keep))
        finish = first + gap * (output - 1) + preemptions * PS
        itl.add(gap, 0, output - 1, 1)
        heapq.heappush(slots[replica], finish)
        busy += (finish - at) // 10
        preempted += preemptions
        failed = turn == turns - 1 and session % 24 == 23
        rows.append(
            *request_row(
                request_id=next(ids),
                session=session,
                turn=turn,
                kind="agent",
                model="llama-3.1-8b",
                status="failed" if failed else "finished",
                reason="prompt longer than the context limit" if failed else "",
                replica=replica,
                prefill_replica=replica,
                arrival_ps=arrival,
                scheduled_ps=-1 if failed else at,
                first_token_ps=-1 if failed else first,
                finish_ps=arrival if failed else finish,
                output_tokens=0 if failed else output,
                preemptions=preemptions,
                recomputed_tokens=preemptions * 2048,
                **row,
            )
        )
        if turn + 1 < turns:
            heapq.heappush(queue, (finish + int(rng.exponential(4) * PS), session, turn + 1))
    requests = rows.arrays(sort_by=0)
    end = int(requests["finish_ps"].max())
    return CellRecords(
        name=name,
        params=params or {},
        requests=requests,
        series=_series(requests, end, kv_blocks),
        itl=itl,
        totals=totals_of(
            steps=end // (PS // 30),
            preemptions=preempted,
            evicted_blocks=int(requests["evicted_tokens"].sum()) // 16,
            simulated_ps=end,
            busy_ps=min(busy, 2 * end),
            replicas=2,
            kv_blocks=kv_blocks,
        ),
        capacity=[
            {
                "name": "main",
                "replicas": 2,
                "gpu": "H100-SXM-80GB",
                "model": "llama-3.1-8b",
                "tp": 1,
                "kv_blocks": kv_blocks // 2,
                "block_size": 16,
                "kv_bytes_per_token": 131_072,
                "weights_bytes": 16_060_522_496,
                "activation_bytes": 1_300_000_000,
                "memory_fraction": 0.9,
            }
        ],
        notes=["tool times are drawn from a log-normal guess, not measured"],
        cost_source="datasheet roofline (H100-SXM-80GB)",
        **cell,
    )


def _series(requests: dict[str, np.ndarray[Any, Any]], end: int, kv_blocks: int) -> Any:
    series = Columns(SERIES_COLUMNS)
    for t in range(0, end, max(PS, end // 900)):
        for replica in (0, 1):
            here = (requests["replica"] == replica) & (requests["arrival_ps"] <= t)
            live = here & (requests["finish_ps"] > t)
            waiting = live & (requests["scheduled_ps"] > t)
            running = live & ~waiting
            used = int(requests["prompt_tokens"][running].sum()) // 16
            used = min(used, kv_blocks // 2)
            prefill = running & (requests["first_token_ps"] > t)
            series.append(
                t,
                replica,
                int(waiting.sum()),
                int(running.sum()),
                used,
                min(kv_blocks // 2 - used, t * 400 // PS),
                min(2048, 700 * int(prefill.sum())),
                int((running & ~prefill).sum()),
            )
    return series.arrays()


def fake_grid(**given: Any) -> list[CellRecords]:
    """Six evictions x two routings."""
    cells = []
    for (eviction, base), (routing, factor) in itertools.product(
        EVICTIONS.items(), ROUTINGS.items()
    ):
        params = {"policies.eviction": eviction, "policies.routing": routing}
        name = f"eviction={eviction} routing={routing}"
        cells.append(fake_cell(name, params, keep=base * factor, **given))
    return cells


@pytest.fixture(scope="session")
def grid() -> list[CellRecords]:
    """Twelve cells; do not change them."""
    return fake_grid()


@pytest.fixture(scope="session")
def make_cell() -> Callable[..., CellRecords]:
    """`fake_cell`."""
    return fake_cell


@pytest.fixture(scope="session")
def make_row() -> Callable[..., tuple[Any, ...]]:
    """`request_row`."""
    return request_row


@pytest.fixture(scope="session")
def make_totals() -> Callable[..., dict[str, int]]:
    """`totals_of`."""
    return totals_of
