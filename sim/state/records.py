"""What a run leaves behind: columns of requests, a time series, gaps between tokens, totals.

Both hosts write these and reports read nothing else. Everything here is a function of the
simulated decisions, so it is byte-identical with leaps on and off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from ...policies.types import Picoseconds

#: requests.parquet: name -> numpy dtype ("str" for text). Times are ps since the run began, -1 for
#: never; tokens are counted once per request, at its first admission, unless said otherwise.
REQUEST_COLUMNS: dict[str, str] = {
    "request_id": "int64",
    "session": "int64",
    "turn": "int32",
    "kind": "str",
    "tenant": "str",
    "model": "str",
    "status": "str",  # finished | failed | shed
    "reason": "str",  # why not finished
    "replica": "int32",  # where it decoded (or failed); -1: nowhere
    "prefill_replica": "int32",  # where its prompt was computed
    "arrival_ps": "int64",
    "scheduled_ps": "int64",  # first time in a step
    "first_token_ps": "int64",
    "finish_ps": "int64",
    "prompt_tokens": "int64",
    "output_tokens": "int64",
    "hit_tokens": "int64",  # prompt tokens found in the replica's own cache
    "remote_tokens": "int64",  # prompt tokens whose KV came over a link
    "never_seen_tokens": "int64",  # prompt tokens that missed because nobody had sent them before
    "evicted_tokens": "int64",  # … because they had been here and were evicted
    "diverged_tokens": "int64",  # … because the same text stood behind another prefix
    "elsewhere_tokens": "int64",  # … because only another replica has them
    "rounding_tokens": "int64",  # … because only whole blocks are cached and one token must be left
    "first_miss": "str",  # label of the segment in which the first miss lies
    "never_seen_ps": "int64",  # time that computing those tokens cost, by the cost model
    "evicted_ps": "int64",
    "diverged_ps": "int64",
    "elsewhere_ps": "int64",
    "rounding_ps": "int64",
    "recomputed_tokens": "int64",  # tokens computed again after preemptions and failed transfers
    "preemptions": "int32",
    "swapped_bytes": "int64",  # KV copied to host memory at preemptions, and back
    "transfer_bytes": "int64",  # KV moved over links for it
    "transfer_ps": "int64",  # time from the end of its prefill to the arrival of its KV
    "embedding_bytes": "int64",  # encoder outputs moved over links for it
    "encode_ps": "int64",  # time from its arrival to that of its encoders' outputs at the prefill
}

#: the same, only where requests of the run have a grammar
GRAMMAR_COLUMNS: dict[str, str] = {
    "grammar_ps": "int64",  # time that it waited for its grammar where its prompt is computed
}

#: series.parquet: one row a sample and replica
SERIES_COLUMNS: dict[str, str] = {
    "t_ps": "int64",
    "replica": "int32",
    "waiting": "int32",
    "running": "int32",
    "kv_used_blocks": "int64",  # held by requests
    "kv_cached_blocks": "int64",  # free, but still holding reusable KV
    "prefill_tokens": "int64",  # in the step that is under way
    "decode_tokens": "int64",
}


class Columns:
    """Rows appended one by one, kept by column."""

    def __init__(self, columns: dict[str, str]) -> None:
        self.types = columns
        self._rows: list[tuple[Any, ...]] = []

    def append(self, *row: Any) -> None:
        """Add one row, in the order of the columns."""
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def keep_every_other(self, group: int) -> None:
        """Drop the first of every two groups of *group* rows (a sampler that halves its rate).

        Samples are taken at multiples of an interval, so those that stay are multiples of two.
        """
        rows = self._rows
        self._rows = []
        for start in range(group, len(rows), 2 * group):
            self._rows += rows[start : start + group]

    def arrays(self, *, sort_by: int | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """The columns; with *sort_by*, ordered by that column."""
        rows = self._rows if sort_by is None else sorted(self._rows, key=itemgetter(sort_by))
        out: dict[str, np.ndarray[Any, Any]] = {}
        for i, (name, dtype) in enumerate(self.types.items()):
            values = map(itemgetter(i), rows)
            kind = object if dtype == "str" else dtype
            out[name] = np.fromiter(values, dtype=kind, count=len(rows))
        return out


class GapHistogram:
    """Gaps between consecutive tokens of a request (ITL), pooled, in bins 0.1 % wide.

    Steps that repeat are logged once as (first, growth, count, sequences) and expanded by numpy
    in batches, so the log of a leap and the log of its steps give the same bins and the same sum.
    """

    BINS_PER_E = 1000.0

    def __init__(self) -> None:
        self.counts = np.zeros(0, dtype=np.int64)
        self._total_ps = 0
        self._log: list[tuple[int, int, int, int]] = []

    def add(self, first_ps: int, growth_ps: int, steps: int, sequences: int) -> None:
        """Log *steps* gaps of *sequences* sequences each: first, first + growth, …"""
        log = self._log
        log.append((first_ps, growth_ps, steps, sequences))
        if len(log) >= 1 << 14:
            self._flush()

    def _flush(self) -> None:
        if not self._log:
            return
        # picoseconds of all requests together outgrow 64 bits
        self._total_ps += sum([n * (k * x + (k * (k - 1) >> 1) * g) for x, g, k, n in self._log])
        rows = np.array(self._log, dtype=np.int64)
        for part in np.array_split(rows, max(1, int(rows[:, 2].sum()) >> 20)):
            steps = part[:, 2]
            starts = np.repeat(np.cumsum(steps) - steps, steps)
            j = np.arange(int(steps.sum()), dtype=np.int64) - starts
            gaps = np.repeat(part[:, 0], steps) + np.repeat(part[:, 1], steps) * j
            bins = (np.log(np.maximum(gaps, 1)) * self.BINS_PER_E).astype(np.int64)
            counts = np.bincount(bins, weights=np.repeat(part[:, 3], steps)).astype(np.int64)
            if len(counts) > len(self.counts):
                counts, self.counts = self.counts, counts
            self.counts[: len(counts)] += counts
        self._log = []

    @property
    def total_ps(self) -> int:
        """The sum of all gaps."""
        self._flush()
        return self._total_ps

    @property
    def samples(self) -> int:
        """How many gaps were logged."""
        self._flush()
        return int(self.counts.sum())

    def quantile_s(self, q: float) -> float:
        """The *q* quantile in seconds, to 0.1 %; NaN when empty."""
        total = self.samples
        if total == 0:
            return float("nan")
        rank = min(int(q * total), total - 1)
        at = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
        return float(np.exp((at + 0.5) / self.BINS_PER_E)) / 1e12

    def mean_s(self) -> float:
        """The mean gap in seconds, exact; NaN when empty."""
        total = self.samples
        return self.total_ps / total / 1e12 if total else float("nan")


@dataclass(slots=True)
class CellRecords:
    """One simulated cluster, start to end. A scenario without ``compare:`` has one cell.

    Attributes:
        name: unique in the run, e.g. "eviction=lru routing=session-sticky".
        params: the compared keys and this cell's values, in order.
        requests: `REQUEST_COLUMNS`, ordered by request_id; `GRAMMAR_COLUMNS` where there are any.
        series: `SERIES_COLUMNS`.
        itl: gaps between tokens.
        totals: exact counters: steps, preemptions, evicted_blocks, simulated_ps, busy_ps (summed
            over replicas), replicas, kv_blocks (summed), link_bytes, link_busy_ps …
        capacity: one dict per pool: how its KV capacity was computed (name, replicas, gpu, model,
            tp, kv_blocks, block_size, kv_bytes_per_token, weights_bytes, …).
        notes: caveats for the reader, e.g. "trace absent: generated fallback".
        cost_source: where step times come from.
        warm_up_ps: requests that arrived before this are left out of metrics.
        slo: limits in seconds by metric ("ttft_s", "tpot_s", "e2e_s").
        prices: money: {"gpu_hour_usd": …} and the number of GPUs ("gpus"; default: counted
            from capacity), empty when not given.
        oracle: a policy of this cell sees the future: its figures are a bound, never "the best".
        steps: columns of `sim.state.steps`, where the run was traced.
    """

    name: str
    params: dict[str, Any]
    requests: dict[str, np.ndarray[Any, Any]]
    series: dict[str, np.ndarray[Any, Any]]
    itl: GapHistogram
    totals: dict[str, int]
    capacity: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    cost_source: str = ""
    warm_up_ps: Picoseconds = 0
    slo: dict[str, float] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    oracle: bool = False
    steps: dict[str, np.ndarray[Any, Any]] | None = None
