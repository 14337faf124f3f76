"""AIPerf's per-request records, ``profile_export.jsonl``.

One request a line: ``metadata`` (request_start_ns, request_end_ns, epoch nanoseconds;
benchmark_phase), ``metrics`` ({"value", "unit"} each: time_to_first_token, request_latency,
input_sequence_length, output_sequence_length, inter_chunk_latency, a list) and ``error``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ....policies.errors import InputError
from ....scenarios.traces.source import Options, Source
from ....scenarios.traces.values import tokens
from ..figures import distribution
from ..measured import Measured, in_order
from .values import floats, in_seconds, number

FORMAT = "AIPerf records"
KEYS = frozenset({"metadata", "metrics"})
CLIENT = "latencies are the client's: network and HTTP are in them, and not in a simulation"


def load(path: Path) -> Measured:
    """Read the records of the profiling phase.

    Raises:
        InputError: a damaged row, or one without the metrics that are needed.
    """
    source = Source(path, Options(allow_unknown=True))
    rows, lengths, gaps = [], [], []
    unfinished = warm_up = 0
    for line, row in source.json_rows(KEYS, frozenset({"error"})):
        where = source.where(line)
        meta, metrics = row["metadata"], row["metrics"]
        if not isinstance(meta, dict):
            raise InputError("metadata must be an object", where=where)
        if meta.get("benchmark_phase", "profiling") != "profiling":
            warm_up += 1
            continue
        if row.get("error") or meta.get("was_cancelled") or not isinstance(metrics, dict):
            unfinished += 1
            continue
        first_s = _time(metrics, "time_to_first_token", where)
        all_s = _time(metrics, "request_latency", where)
        start_s = number(meta.get("request_start_ns"), "request_start_ns", where) * 1e-9
        rows.append((start_s, first_s, all_s))
        lengths.append(
            (
                _tokens(metrics, "input_sequence_length", where),
                _tokens(metrics, "output_sequence_length", where),
            )
        )
        gaps += _gaps(metrics, where)
    if not rows:
        raise InputError("no request was answered", where=str(path))
    notes = [CLIENT]
    if warm_up:
        notes.append(f"{warm_up} requests of the warm-up phase are left out")
    start, ttft, e2e = np.array(rows, dtype=np.float64).T
    prompt, output = np.array(lengths, dtype=np.int64).T
    return Measured(
        path.name,
        FORMAT,
        "client",
        requests=in_order(start, ttft, e2e, prompt, output),
        given={"itl_s": distribution(floats(gaps))} if gaps else {},
        unfinished=unfinished,
        notes=tuple(notes),
    )


def _metric(metrics: dict[str, Any], name: str, where: str) -> tuple[Any, str]:
    found = metrics.get(name)
    if not isinstance(found, dict) or "value" not in found:
        help = "the run must stream: --streaming" if name == "time_to_first_token" else ""
        raise InputError(f"no metric {name} with a value", where=where, help=help)
    return found["value"], str(found.get("unit", ""))


def _time(metrics: dict[str, Any], name: str, where: str) -> float:
    value, unit = _metric(metrics, name, where)
    return in_seconds(number(value, name, where), unit, name, where)


def _tokens(metrics: dict[str, Any], name: str, where: str) -> int:
    return tokens(_metric(metrics, name, where)[0], name, where, least=1)


def _gaps(metrics: dict[str, Any], where: str) -> list[float]:
    """Gaps between chunks; none where they were not recorded."""
    name = "inter_chunk_latency"
    if name not in metrics:
        return []
    values, unit = _metric(metrics, name, where)
    if not isinstance(values, list):
        raise InputError(f"{name} must be a list", where=where)
    return [in_seconds(number(value, name, where), unit, name, where) for value in values]
