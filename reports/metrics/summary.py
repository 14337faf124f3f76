"""The ``metrics`` object of summary.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...sim.state.records import CellRecords
from .fairness import fairness
from .goals import goals, usd_per_million_output_tokens
from .hits import hits, misses
from .saturation import saturation
from .stats import distribution, finite, gap_distribution, ratio, seconds
from .step_time import step_time
from .window import Window


def summarize(cell: CellRecords) -> dict[str, Any]:
    """The metrics of *cell*: times in seconds, shares 0..1, None for what does not exist.

    Counts of requests, steps, preemptions and evicted blocks are of the whole run, as is ITL;
    everything else is of the requests that arrived after the warm-up.

    Raises:
        InputError: an slo or a price that cannot be used.
    """
    window = Window.of(cell)
    metrics = {
        **_counts(cell),
        "window": {
            "from_s": cell.warm_up_ps / 1e12,
            "requests": len(window),
            "finished": int(window.finished.sum()),
            "duration_s": window.duration_s,
        },
        **hits(window),
        **misses(window),
        **_latencies(cell, window),
        **_structured(cell, window),
        "fairness": fairness(window),
        **_throughput(cell, window),
        **goals(cell, window),
        **_work(cell, window),
        "saturation": saturation(window.columns),
        "step_time": step_time(cell),
        "steps": cell.totals["steps"],
        "simulated_s": cell.totals["simulated_ps"] / 1e12,
        "kv_blocks": cell.totals["kv_blocks"],
    }
    plain: dict[str, Any] = finite(metrics)
    return plain


def _counts(cell: CellRecords) -> dict[str, Any]:
    status, reason = cell.requests["status"], cell.requests["reason"]
    counts = {name: int((status == name).sum()) for name in ("finished", "failed", "shed")}
    return {
        "requests": {"arrived": len(status), **counts},
        "failed_reasons": _reasons(reason[status == "failed"]),
        "shed_reasons": _reasons(reason[status == "shed"]),
    }


def _reasons(reasons: np.ndarray[Any, Any]) -> dict[str, int]:
    """How often each reason was given, most frequent first."""
    names, counts = np.unique(reasons.astype(str), return_counts=True)
    pairs = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda p: (-p[1], p[0]))
    return dict(pairs)


def _latencies(cell: CellRecords, window: Window) -> dict[str, Any]:
    tpot_s = window.tpot_s()
    return {
        "ttft_s": distribution(window.between_s("arrival_ps", "first_token_ps")),
        "tpot_s": distribution(tpot_s[~np.isnan(tpot_s)]),
        "itl_s": gap_distribution(cell.itl),
        "e2e_s": distribution(window.between_s("arrival_ps", "finish_ps")),
        "queue_s": distribution(window.between_s("arrival_ps", "scheduled_ps")),
        "time_split_s": {
            part: float(values.mean()) if len(values) else None
            for part, values in window.split_s().items()
        },
    }


def _structured(cell: CellRecords, window: Window) -> dict[str, Any]:
    """Requests with a grammar, and how long they waited for it; nothing where there are none."""
    if "grammar_ps" not in window.columns:
        return {}
    waits = window.columns["grammar_ps"]
    waits_s = seconds(waits[waits >= 0])
    return {
        "structured": {
            "requests": len(waits_s),
            "share": ratio(len(waits_s), len(waits)),
            "waited": int((waits > 0).sum()),
            "grammar_s": distribution(waits_s),
            "compiled_grammars": cell.totals.get("compiled_grammars", 0),
        }
    }


def _throughput(cell: CellRecords, window: Window) -> dict[str, Any]:
    output = int(window.done("output_tokens").sum())
    prompt = int(window.done("prompt_tokens").sum())
    output_tokens_per_s = window.per_second(output)
    return {
        "output_tokens_per_s": output_tokens_per_s,
        "total_tokens_per_s": window.per_second(output + prompt),
        "requests_per_s": window.per_second(int(window.finished.sum())),
        "usd_per_million_output_tokens": usd_per_million_output_tokens(cell, output_tokens_per_s),
    }


def _work(cell: CellRecords, window: Window) -> dict[str, Any]:
    """What the cluster did beside answering: preemptions, evictions, transfers; how busy it was."""
    columns, totals = window.columns, cell.totals
    carried = totals.get("link_bytes", 0)
    moved = columns["transfer_ps"][columns["transfer_bytes"] > 0]
    return {
        "preemptions": totals["preemptions"],
        "preempted_requests": int((columns["preemptions"] > 0).sum()),
        "recomputed_tokens": int(columns["recomputed_tokens"].sum()),
        "swap": _swap(totals),
        "evicted_blocks": totals["evicted_blocks"],
        "transfer": {
            "requests": len(moved),
            "bytes": int(columns["transfer_bytes"].sum()),
            "mean_s": float(moved.mean()) / 1e12 if len(moved) else None,
            "link_bytes": carried,
            "link_busy_share": ratio(totals["link_busy_ps"], totals["simulated_ps"])
            if carried
            else None,
            "failed": totals.get("failed_transfers", 0),
        },
        "role_switches": totals.get("role_switches", 0),
        "busy_share": ratio(totals["busy_ps"], totals["simulated_ps"] * totals["replicas"]),
        "requests_max_over_mean": _imbalance(window, totals["replicas"]),
    }


def _swap(totals: dict[str, int]) -> dict[str, float] | None:
    """Preempted requests whose KV went to host memory; None where none may."""
    if "swapped_out" not in totals:
        return None
    return {
        "out": totals["swapped_out"],
        "in": totals["swapped_in"],
        "out_bytes": totals["swap_out_bytes"],
        "in_bytes": totals["swap_in_bytes"],
        "refused": totals["swap_refused"],
        "copying_s": totals["swap_ps"] / 1e12,
    }


def _imbalance(window: Window, replicas: int) -> float | None:
    """Requests finished on the busiest replica over the mean of all; None when nothing finished."""
    counts = np.bincount(window.done("replica").clip(0), minlength=replicas)
    return ratio(float(counts.max()), float(counts.mean())) if counts.sum() else None
