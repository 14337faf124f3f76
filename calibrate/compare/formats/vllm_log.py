"""A log of vLLM's requests: epoch arrivals, the engine's monotonic stamps; its series and meta.

``…requests.jsonl`` has one request a line: request_id, input_toks, output_toks, arrival_time
(epoch seconds at the client), queued_ts, scheduled_ts, first_token_ts, last_token_ts (monotonic
seconds of the engine). Beside it may lie ``…timeseries.csv[.gz]`` (t, running, waiting,
kv_cache_pct, of vLLM's own statistics) and ``…meta.json`` (engine settings, KV blocks). It is what
the recorder of casys-kaist/LLMServingSim writes.

The two clocks are put together by the smallest queued − arrival: the request that was picked up
at once. The engine stamps ``queued`` when its loop picks a request up, so TTFT from there hides
the wait before; it is counted from arrival unless the reader asks otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ....policies.errors import InputError
from ....scenarios.traces.source import Options, Source
from ....scenarios.traces.values import tokens
from ..measured import Measured, Requests, Series, in_order
from .values import json_of, number

FORMAT = "vLLM request log"
_STAMPS = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
KEYS = frozenset({"input_toks", "output_toks", *_STAMPS})
_SUFFIX = "requests.jsonl"
TtftFrom = Literal["arrival", "queued"]


def load(path: Path, ttft_from: TtftFrom = "arrival") -> Measured:
    """Read the log and what lies beside it.

    Args:
        ttft_from: what latencies count from, and what a replay of it arrives at.

    Raises:
        InputError: a damaged row, table or meta file.
    """
    notes: list[str] = []
    requests, unfinished = _requests(path, ttft_from, notes)
    if ttft_from == "queued":
        notes.append("latencies count from queued_ts, which leaves out the wait before it")
    blocks, block_size, settings = _meta(_beside(path, "meta.json"))
    return Measured(
        name=path.name,
        format=FORMAT,
        requests=requests,
        series=_series(_beside(path, "timeseries.csv"), notes),
        kv_blocks=blocks,
        block_size=block_size,
        settings=settings,
        unfinished=unfinished,
        notes=tuple(notes),
    )


def _requests(path: Path, ttft_from: TtftFrom, notes: list[str]) -> tuple[Requests, int]:
    rows: list[tuple[float, ...]] = []
    sizes: list[tuple[int, int]] = []
    unfinished = 0
    source = Source(path, Options(allow_unknown=True))
    for line, row in source.json_rows(KEYS, frozenset({"request_id", "scheduled_ts"})):
        where = source.where(line)
        if row["first_token_ts"] is None or row["last_token_ts"] is None:
            unfinished += 1
            continue
        stamps = tuple(number(row[name], name, where) for name in _STAMPS)
        if not stamps[1] <= stamps[2] <= stamps[3]:
            message = "queued_ts, first_token_ts and last_token_ts must rise"
            raise InputError(message, where=where)
        sizes.append(
            (
                tokens(row["input_toks"], "input_toks", where, least=1),
                tokens(row["output_toks"], "output_toks", where, least=1),
            )
        )
        rows.append(stamps)
    if not rows:
        raise InputError("no request of the log was answered", where=str(path))
    arrival, queued, first, last = np.array(rows, dtype=np.float64).T
    offset_s = float((queued - arrival).min())
    start = arrival + offset_s if ttft_from == "arrival" else queued
    waited_ms = float((queued - arrival - offset_s).mean()) * 1e3
    notes.append(
        f"requests were picked up {waited_ms:.1f} ms after arrival on average "
        "(clocks aligned by the smallest)"
    )
    prompt, output = np.array(sizes, dtype=np.int64).T
    return in_order(start, first - start, last - start, prompt, output), unfinished


def _beside(path: Path, name: str) -> Path | None:
    """The file *name* of the same recording, plain or compressed."""
    head = path.name.partition(_SUFFIX)[0] if _SUFFIX in path.name else ""
    for suffix in ("", ".gz", ".zst", ".xz"):
        found = path.with_name(f"{head}{name}{suffix}")
        if found.is_file():
            return found
    return None


def _series(path: Path | None, notes: list[str]) -> Series | None:
    if path is None:
        return None
    source = Source(path, Options(allow_unknown=True))
    wanted = ("t", "running", "waiting", "kv_cache_pct")
    rows = []
    for line, row in source.csv_rows(frozenset(wanted), frozenset()):
        try:
            rows.append([float(row[name]) for name in wanted])
        except ValueError:
            raise InputError("a cell is not a number", where=source.where(line)) from None
    if len(rows) < 2:
        return None
    t_s, running, waiting, kv = np.array(sorted(rows), dtype=np.float64).T
    if not kv.any():
        notes.append("the KV series is all zeros, a fault of the recorder: it is left out")
        return Series(t_s, running, waiting, None)
    return Series(t_s, running, waiting, kv / 100)


def _meta(path: Path | None) -> tuple[int | None, int | None, dict[str, Any]]:
    """Usable KV blocks of all engines, their size, and the settings that a scenario has too."""
    if path is None:
        return None, None, {}
    meta = json_of(path)
    if not isinstance(meta, dict):
        raise InputError("the meta file must hold a JSON object", where=str(path))
    config = _dict(meta, "resolved_config")
    kv, engine = _dict(meta, "kv_cache"), _dict(meta, "engine_kwargs")
    scheduler, parallel = _dict(config, "scheduler_config"), _dict(config, "parallel_config")
    where = str(path)
    ranks = _count(engine, "data_parallel_size", where) or 1
    blocks, block_size = _count(kv, "num_gpu_blocks", where), _count(kv, "block_size", where)
    found = {
        "tp": engine.get("tensor_parallel_size", parallel.get("tensor_parallel_size")),
        "block_size": block_size,
        "engine.max_num_batched_tokens": engine.get("max_num_batched_tokens"),
        "engine.max_num_seqs": engine.get("max_num_seqs"),
        "engine.max_model_len": engine.get("max_model_len"),
        "engine.enable_prefix_caching": kv.get("enable_prefix_caching"),
        "engine.async_scheduling": scheduler.get("async_scheduling"),
        "engine.enable_chunked_prefill": scheduler.get("enable_chunked_prefill"),
        "engine.long_prefill_token_threshold": scheduler.get("long_prefill_token_threshold"),
        "engine.reserve_full_isl": scheduler.get("scheduler_reserve_full_isl"),
    }
    settings = {name: value for name, value in found.items() if value is not None}
    # vLLM never gives out one of the blocks, its null block
    usable = None if blocks is None else (blocks - 1) * ranks
    return usable, block_size, settings


def _count(data: dict[str, Any], key: str, where: str) -> int | None:
    """A whole number of 1 or more; None where it is absent.

    Raises:
        InputError: something else stands there.
    """
    value = data.get(key)
    if value is not None and (type(value) is not int or not 1 <= value < 1 << 40):
        raise InputError(f"{key} must be a whole number from 1 on", where=where)
    return value


def _dict(data: dict[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}
