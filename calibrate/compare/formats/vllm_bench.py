"""The result of ``vllm bench serve``: request by request with --save-detailed, else its summary.

One JSON object. With --save-detailed it holds lists, one element a request: input_lens,
output_lens, ttfts (s), itls (s, one list a request), errors ("" for none) and, in newer versions,
start_times (s of the client's monotonic clock). A request's end is ttft + sum(itls), as the tool
itself counts it to within its own rounding. SGLang's bench_serving writes the same lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ....policies.errors import InputError
from ....scenarios.traces.values import tokens
from ..figures import RATES, distribution
from ..measured import Figures, Measured, Requests, in_order
from .values import floats, number

FORMAT = "vllm bench serve"
_LISTS = ("input_lens", "output_lens", "ttfts", "itls")
_METRICS = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2el": "e2e_s"}
_STATISTICS = {"mean": "mean", "median": "p50", "p90": "p90", "p99": "p99"}
_RATES = ("request_throughput", "output_throughput", "total_token_throughput")


def recognises(data: Any) -> bool:
    """Whether *data* is such a result."""
    return isinstance(data, dict) and ("mean_ttft_ms" in data or "ttfts" in data)


def load(path: Path, data: dict[str, Any]) -> Measured:
    """Read the result *data*, which stands in *path*.

    Raises:
        InputError: lists of unequal lengths, or values that are none.
    """
    where = str(path)
    given = _given(data, where)
    notes = ["latencies are the client's: network and HTTP are in them, and not in a simulation"]
    if data.get("max_concurrency"):
        notes.append(
            f"the client kept at most {data['max_concurrency']} requests open: a replay of their "
            "start times keeps the times, not the limit"
        )
    if "ttfts" not in data:
        notes.append("no --save-detailed: only the summary can be compared")
        return Measured(path.name, FORMAT, "client", given=given, notes=tuple(notes))
    missing = [name for name in _LISTS if not isinstance(data.get(name), list)]
    if missing:
        raise InputError(f"no list {', '.join(missing)} beside ttfts", where=where)
    requests, gaps, unfinished = _requests(data, where, notes)
    if gaps:
        given["itl_s"] = distribution(np.concatenate(gaps))
    return Measured(
        path.name,
        FORMAT,
        "client",
        requests=requests,
        given=given,
        unfinished=unfinished,
        notes=tuple(notes),
    )


def _requests(
    data: dict[str, Any], where: str, notes: list[str]
) -> tuple[Requests, list[np.ndarray[Any, Any]], int]:
    starts, errors = data.get("start_times"), data.get("errors")
    count = len(data["ttfts"])
    columns = [data[name] for name in _LISTS]
    columns += [starts if starts is not None else [0.0] * count]
    columns += [errors if errors is not None else [""] * count]
    if {len(column) if isinstance(column, list) else -1 for column in columns} != {count}:
        raise InputError("the lists of requests differ in length", where=where)
    rows, gaps, unfinished = [], [], 0
    for i, (prompt, output, ttft, itl, start, error) in enumerate(zip(*columns, strict=True)):
        if error or not output or not ttft:
            unfinished += 1
            continue
        at = f"{where}  request {i}"
        found = floats([number(gap, "itls", at) for gap in itl])
        first_s = number(ttft, "ttfts", at)
        row = (number(start, "start_times", at), first_s, first_s + float(found.sum()))
        lengths = tokens(prompt, "input_lens", at, least=1), tokens(output, "output_lens", at)
        rows.append((row, lengths))
        if len(found):
            gaps.append(found)
    if not rows:
        raise InputError("no request was answered", where=where)
    start_s, ttft_s, e2e_s = np.array([row for row, _ in rows], dtype=np.float64).T
    prompts, outputs = np.array([lengths for _, lengths in rows], dtype=np.int64).T
    if starts is not None:
        return in_order(start_s, ttft_s, e2e_s, prompts, outputs), gaps, unfinished
    notes.append("start_times are absent (an older version): requests cannot be paired or replayed")
    return Requests(None, ttft_s, e2e_s, prompts, outputs), gaps, unfinished


def _given(data: dict[str, Any], where: str) -> Figures:
    """The figures that the tool computed itself."""
    found: Figures = {}
    for theirs, ours in _METRICS.items():
        stats = {
            name: number(data[f"{prefix}_{theirs}_ms"], f"{prefix}_{theirs}_ms", where) / 1e3
            for prefix, name in _STATISTICS.items()
            if data.get(f"{prefix}_{theirs}_ms") is not None
        }
        if stats:
            found[ours] = stats
    for theirs, ours in zip(_RATES, RATES, strict=True):
        if data.get(theirs) is not None:
            found[ours] = {"value": number(data[theirs], theirs, where)}
    if data.get("duration") is not None:
        found["duration_s"] = {"value": number(data["duration"], "duration", where)}
    return found
