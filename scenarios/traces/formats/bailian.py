"""Alibaba's Bailian traces and LMCache's agent traces: seconds, 16-token chained blocks, sessions.

Bailian links a request to the one it follows by ``parent_chat_id`` (-1: none); LMCache numbers
sessions. Arrival times are the service's own, so both replay open loop; closed loop, a request
waits for the session's last answer too.
Sources: alibaba-edu/qwen-bailian-usagetraces-anon, LMCache/lmcache-agent-trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..rows import Row, Trace
from ..runs import check_cover, runs_of
from ..source import Source
from ..values import InOrder, answer, integer, seconds, text, tokens
from .base import Format, open_trace

BLOCK_SIZE = 16


def read_bailian(source: Source) -> Trace:
    """Read a trace whose rows name their parents."""
    return _read(source, BAILIAN, _Parents(source).session)


def read_lmcache(source: Source) -> Trace:
    """Read a trace whose rows name their session."""
    numbers: dict[int, int] = {}

    def session(row: dict[str, Any], line: int) -> int:
        name = integer(row["session_id"], "session_id", source.where(line))
        return numbers.setdefault(name, len(numbers))

    return _read(source, LMCACHE, session)


def _read(source: Source, what: Format, session: Callable[[dict[str, Any], int], int]) -> Trace:
    block_size = source.options.block_size or BLOCK_SIZE
    rows = _rows(source, what, session, block_size)
    return open_trace(source, what.name, rows, block_size=block_size)


def _rows(
    source: Source,
    what: Format,
    session_of: Callable[[dict[str, Any], int], int],
    block_size: int,
) -> Iterator[Row]:
    in_order = InOrder(source)
    last: dict[int, tuple[int, float]] = {}  # session -> turns so far, time of the last
    number = 0
    for line, row in source.json_rows(what.required, what.optional):
        where = source.where(line)
        at_s = in_order.check(seconds(row["timestamp"], "timestamp", where), line)
        prompt = tokens(row["input_length"], "input_length", where, least=1)
        runs = runs_of(row["hash_ids"], where)
        check_cover(runs, prompt, block_size, where)
        kind = text(row.get("type", ""), "type", where)
        tokens(row.get("turn", 1), "turn", where)
        session = session_of(row, line)
        out = answer(source, row["output_length"], "output_length", line)
        if out is None:
            continue
        turn, before = last.get(session, (0, at_s))
        gap = at_s - before if turn else None
        last[session] = (turn + 1, at_s)
        yield Row(
            number, line, prompt, out, at_s, runs, kind=kind, session=session, turn=turn, gap_s=gap
        )
        number += 1


class _Parents:
    """Sessions of chats that name the chat before them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sessions: dict[int, int] = {}
        self._roots = 0

    def session(self, row: dict[str, Any], line: int) -> int:
        """The session of the root above this row."""
        where = self._source.where(line)
        chat = integer(row["chat_id"], "chat_id", where)
        parent = integer(row["parent_chat_id"], "parent_chat_id", where)
        if parent in self._sessions:
            session = self._sessions[parent]
        else:
            if parent != -1:
                self._source.count("the parent chat is not in the trace; taken for a first turn")
            session, self._roots = self._roots, self._roots + 1
        self._sessions[chat] = session
        return session


_LENGTHS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})

BAILIAN = Format(
    "bailian",
    "timestamp (s), chat_id, parent_chat_id, lengths, hash_ids of 16-token blocks",
    _LENGTHS | {"chat_id", "parent_chat_id"},
    frozenset({"type", "turn"}),
    read_bailian,
)
LMCACHE = Format(
    "lmcache",
    "timestamp (s), session_id, lengths, hash_ids of 16-token blocks",
    _LENGTHS | {"session_id"},
    frozenset({"type", "turn"}),
    read_lmcache,
)
