"""Convert a trace to another format, where the trace holds what the format needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ...policies.errors import InputError, UnknownNameError
from .load import load
from .rows import Row, Trace
from .source import Options
from .writing import write_lines

_ZERO = datetime(1970, 1, 1, tzinfo=UTC)  #: traces keep no date; converted ones start here


def convert(
    path: str | Path,
    out: str | Path,
    to: str,
    *,
    format: str | None = None,
    block_size: int | None = None,
) -> list[str]:
    """Read *path* and write it to *out* in the format *to*, whole or not at all.

    Args:
        path: a trace in any supported format.
        out: the file to write; .gz, .xz and .zst are compressed.
        to: one of `TARGETS`.
        format, block_size: how to read *path*, see `load`.

    Returns:
        What was lost, as sentences for the user; empty when nothing was.

    Raises:
        UnknownNameError: no such target format.
        InputError: the trace cannot be read, or lacks what the target needs.
    """
    if to not in TARGETS:
        raise UnknownNameError("target format", to, TARGETS)
    trace = load(path, format=format, options=Options(block_size=block_size))
    reasons, lines, lost = TARGETS[to](trace)
    if reasons:
        raise InputError(
            f"{trace.format} cannot be written as {to}: {'; '.join(reasons)}", where=trace.file
        )
    write_lines(Path(out), lines)
    return [*trace.notes, *lost]


Plan = tuple[list[str], Iterator[str], list[str]]  # reasons against, lines, losses


def _mooncake(trace: Trace) -> Plan:
    reasons = _needs(trace, times=True, ids=True)
    if any(row.model != trace.rows[0].model for row in trace.rows):
        reasons.append("ids are per model and mooncake has no models")
    lost = _lost(trace, sessions=True)
    if trace.block_size != 512:
        lost.append(f"blocks are of {trace.block_size} tokens: read it with that block size")

    def lines() -> Iterator[str]:
        for row in trace.rows:
            yield _json(
                timestamp=_number((row.at_s or 0.0) * 1e3),
                input_length=row.input_tokens,
                output_length=row.output_tokens,
                hash_ids=_ids(row),
            )

    return reasons, lines(), lost


def _bailian(trace: Trace) -> Plan:
    reasons = _needs(trace, times=True, ids=True)
    if trace.block_size not in (0, 16):
        reasons.append(f"its blocks are of {trace.block_size} tokens, bailian's of 16")

    def lines() -> Iterator[str]:
        last: dict[int, int] = {}
        for row in trace.rows:
            yield _json(
                chat_id=row.number,
                parent_chat_id=last.get(row.session, -1),
                timestamp=_number(row.at_s or 0.0),
                input_length=row.input_tokens,
                output_length=row.output_tokens,
                type=row.kind,
                turn=row.turn + 1,
                hash_ids=_ids(row),
            )
            if row.session >= 0:
                last[row.session] = row.number

    return reasons, lines(), []


def _azure(trace: Trace) -> Plan:
    def lines() -> Iterator[str]:
        yield "TIMESTAMP,ContextTokens,GeneratedTokens"
        for row in trace.rows:
            ns = round((row.at_s or 0.0) * 1e9)
            day = _ZERO + timedelta(seconds=ns // 10**9)
            date = f"{day:%Y-%m-%d %H:%M:%S}.{ns % 10**9:09d}"
            yield f"{date},{row.input_tokens},{row.output_tokens}"

    return _needs(trace, times=True), lines(), _lost(trace, sessions=True, ids=True)


def _vidur(trace: Trace) -> Plan:
    def lines() -> Iterator[str]:
        yield "num_prefill_tokens,num_decode_tokens"
        for row in trace.requests():
            yield f"{row.input_tokens},{row.output_tokens}"

    lost = _lost(trace, sessions=True, ids=True)
    return [], lines(), [*lost, "arrival times are left out"] if trace.timed else lost


TARGETS: dict[str, Callable[[Trace], Plan]] = {
    "mooncake": _mooncake,
    "bailian": _bailian,
    "azure": _azure,
    "vidur": _vidur,
}


def _needs(trace: Trace, *, times: bool = False, ids: bool = False) -> list[str]:
    """Why not, if the target needs arrival times or block ids."""
    reasons = []
    if times and not trace.timed:
        reasons.append("it has no arrival times")
    if ids and trace.sessions:
        reasons.append("its requests wait for answers")
    elif ids and not all(row.runs for row in trace.rows):
        reasons.append("it has no block ids")
    if ids and any(row.items for row in trace.rows):
        reasons.append("its images have no ids")
    return reasons


def _lost(trace: Trace, *, sessions: bool = False, ids: bool = False) -> list[str]:
    """What the target has no place for."""
    lost = []
    if sessions and any(row.session >= 0 for row in trace.requests()):
        lost.append("sessions and pauses are left out")
    if ids and any(row.runs for row in trace.requests()):
        lost.append("block ids are left out: what prompts share is lost")
    if any(row.items for row in trace.rows):
        lost.append("images are counted as tokens of the prompt")
    return lost


def _ids(row: Row) -> list[int]:
    return [b for first, blocks in row.runs for b in range(first, first + blocks)]


def _number(value: float) -> int | float:
    value = round(value, 6)
    return int(value) if value == int(value) else value


def _json(**fields: Any) -> str:
    return json.dumps(fields)
