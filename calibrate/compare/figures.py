"""The figures of a run that are compared: latencies at four statistics, throughput, hit rate."""

from __future__ import annotations

import numpy as np

from .measured import Figures, Floats, Measured, Requests

#: statistics of a latency, in the order in which they are shown
STATISTICS = ("mean", "p50", "p90", "p99")
LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
RATES = ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s")


def distribution(values: Floats) -> dict[str, float]:
    """Mean and percentiles (numpy linear) with their count ``n``; empty without values."""
    if not len(values):
        return {}
    cuts = np.percentile(values, [50, 90, 99])
    found = {"mean": float(values.mean()), "n": float(len(values))}
    return found | {name: float(cut) for name, cut in zip(STATISTICS[1:], cuts, strict=True)}


def latencies(requests: Requests) -> dict[str, Floats]:
    """ttft_s, tpot_s (without single-token answers) and e2e_s of every request."""
    tpot_s = requests.tpot_s()
    return {
        "ttft_s": requests.ttft_s,
        "tpot_s": tpot_s[~np.isnan(tpot_s)],
        "e2e_s": requests.e2e_s,
    }


def figures(run: Measured, warm_up_s: float = 0.0) -> Figures:
    """Every figure that *run* supports, by metric and statistic ("value" for a single number).

    Args:
        warm_up_s: requests that arrived before this are left out, where arrivals are known.
            What the file states itself is of the whole run.
    """
    found = dict(run.given)
    if run.requests is None:
        return found
    measured = after(run.requests, warm_up_s)
    for metric, values in latencies(measured).items():
        if len(values):
            found[metric] = distribution(values)
    return found | _rates(measured) | _hits(measured)


def after(requests: Requests, warm_up_s: float) -> Requests:
    """Those that arrived at *warm_up_s* or later; all of them where arrivals are not known."""
    if warm_up_s <= 0 or requests.arrival_s is None:
        return requests
    return requests.where(requests.arrival_s >= warm_up_s)


def _rates(requests: Requests) -> Figures:
    """Of the finished requests, first arrival to last completion; none without arrivals."""
    if requests.arrival_s is None or not len(requests):
        return {}
    ends = requests.arrival_s + requests.e2e_s
    duration_s = float(ends.max() - requests.arrival_s[0])
    if duration_s <= 0:
        return {}
    output = float(requests.output_tokens.sum())
    amounts = (float(len(requests)), output, output + float(requests.prompt_tokens.sum()))
    rates = {name: {"value": a / duration_s} for name, a in zip(RATES, amounts, strict=True)}
    return {"duration_s": {"value": duration_s}} | rates


def _hits(requests: Requests) -> Figures:
    prompt = int(requests.prompt_tokens.sum())
    if requests.hit_tokens is None or not prompt:
        return {}
    return {"hit_rate": {"value": int(requests.hit_tokens.sum()) / prompt}}
