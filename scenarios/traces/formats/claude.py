"""Claude Code sessions: closed loop, think times, tool use, nested sub-agents.

One session a line. ``t`` is when a request was sent, seconds since its session began; a
sub-agent's own ``t`` is when its *result* came back (its start is ``t`` - ``duration_ms``, just
after the request before it: so several run side by side), and its inner ``t`` count from its own
start. Think time is the pause since the last answer. Where the answer's end is not recorded
(``api_time`` absent) or there is no ``think_time``, the pause is taken from ``t``. Ids are
floor(in / block_size) full blocks; the rest of a prompt is text of its own. They cover prompts
only: where a later prompt quotes an answer, the ids there are new, and so it misses.
Source: callanjfox/kv-cache-tester.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ....policies.errors import InputError
from ..rows import Branch, Fork, Row, Session, Trace
from ..runs import check_cover, runs_of
from ..source import Source
from ..values import InOrder, answer, seconds, text, tokens
from .base import Format, session_trace

_ROW_KEYS = frozenset({"t", "type", "in", "out", "hash_ids"})
_ROW_EXTRAS = frozenset(
    {"model", "input_types", "output_types", "stop", "api_time", "think_time", "ttft"}
)
_SUB_KEYS = frozenset({"t", "type", "requests"})
_SUB_EXTRAS = frozenset(
    {"agent_id", "subagent_type", "duration_ms", "total_tokens", "tool_use_count"}
    | {"status", "models", "tool_tokens", "system_tokens", "totals"}
)


def read(source: Source) -> Trace:
    """Read the sessions; every one must have the same block size."""
    reader = _Reader(source)
    trace = session_trace(source, FORMAT.name, reader.sessions())
    return replace(trace, block_size=reader.block_size)


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._number = 0
        self.block_size = 0

    def sessions(self) -> Iterator[Session]:
        """The sessions in file order."""
        for line, row in self._source.json_rows(FORMAT.required, FORMAT.optional):
            where = self._source.where(line)
            name = text(row["id"], "id", where)
            self._check_block_size(row["block_size"], where)
            number = line - 1
            local = text(row.get("hash_id_scope", "local"), "hash_id_scope", where)
            if local not in ("local", "global"):
                raise InputError(
                    f'hash_id_scope must be "local" or "global", found "{local}"', where=where
                )
            head = _head(row, where)
            reader = _Steps(self, line, number, name if local == "local" else "", head)
            steps = tuple(reader.read(_requests(row, where)))
            if steps:  # else every request was dropped, and counted
                yield Session(number, name, steps)

    def _check_block_size(self, value: Any, where: str) -> None:
        size = tokens(value, "block_size", where, least=1)
        wanted = self._source.options.block_size
        if wanted is not None and size != wanted:
            raise InputError(f"block_size is {size}, asked for {wanted}", where=where)
        if self.block_size not in (0, size):
            raise InputError(
                f"block_size is {size}, the sessions above have {self.block_size}", where=where
            )
        self.block_size = size

    def row(self, item: dict[str, Any], line: int, scope: str) -> Row | None:
        """One request without its place in the session; None when it is dropped."""
        source, where = self._source, self._source.where(line)
        source.check_keys(frozenset(item), _ROW_KEYS, _ROW_KEYS | _ROW_EXTRAS, line)
        prompt = tokens(item["in"], "in", where, least=1)
        runs = runs_of(item["hash_ids"], where)
        check_cover(runs, prompt, self.block_size, where)
        out = answer(source, item["out"], "out", line)
        at_s = seconds(item["t"], "t", where)
        if out is None:
            return None
        self._number += 1
        model = text(item.get("model", ""), "model", where)
        return Row(self._number - 1, line, prompt, out, at_s, runs, scope, model=model)

    def branch(self, item: dict[str, Any], line: int, number: int, scope: str) -> _Timed:
        """A sub-agent: when it began, when it ended, its rows."""
        source, where = self._source, self._source.where(line)
        source.check_keys(frozenset(item), _SUB_KEYS, _SUB_KEYS | _SUB_EXTRAS, line)
        end_s = seconds(item["t"], "t", where)
        lasted_s = seconds(item.get("duration_ms", 0), "duration_ms", where, scale=1e-3)
        steps = _Steps(self, line, number, scope, _head(item, where), kind="subagent")
        rows = []
        for step in steps.read(_requests(item, where)):
            if not isinstance(step, Row):
                raise InputError("a sub-agent within a sub-agent", where=where)
            rows.append(step)
        return _Timed(max(0.0, end_s - lasted_s), end_s, tuple(rows))


@dataclass(frozen=True, slots=True)
class _Timed:
    start_s: float
    end_s: float
    rows: tuple[Row, ...]


@dataclass(slots=True)
class _Steps:
    """Turns the requests of one session into rows that know how long to wait.

    `_free_s` is when the last answer, or the last sub-agent's result, was back; None if that is
    not recorded.
    """

    reader: _Reader
    line: int
    session: int
    scope: str
    head: tuple[tuple[str, int], ...]
    kind: str = "agent"
    _turn: int = 0
    _sent_s: float = 0.0
    _free_s: float | None = 0.0
    _forked: bool = False

    def read(self, items: list[dict[str, Any]]) -> Iterator[Row | Fork]:
        """The steps, sub-agents that follow one another gathered into one fork."""
        in_order = InOrder(self.reader._source)
        waiting: list[_Timed] = []
        for item in items:
            if item.get("type") == "subagent":
                branch = self.reader.branch(item, self.line, self.session, self.scope)
                if branch.rows:
                    waiting.append(branch)
                continue
            if waiting:
                yield self._fork(waiting)
                waiting = []
            row = self.reader.row(item, self.line, self.scope)
            if row is not None:
                in_order.check(row.at_s or 0.0, self.line)
                yield self._place(row, item)
        if waiting:
            yield self._fork(waiting)

    def _fork(self, branches: list[_Timed]) -> Fork:
        free_s = self._sent_s if self._free_s is None else self._free_s
        self._free_s = max(branch.end_s for branch in branches)
        self._forked = True
        return Fork(tuple(Branch(max(0.0, b.start_s - free_s), b.rows) for b in branches))

    def _place(self, row: Row, item: dict[str, Any]) -> Row:
        where = self.reader._source.where(self.line)
        at_s = row.at_s or 0.0
        think_s: float | None = None
        if self._free_s is not None:
            think_s = max(0.0, at_s - self._free_s)
            if "think_time" in item:
                recorded = seconds(item["think_time"], "think_time", where)
                think_s = think_s if self._forked else recorded  # it counts from before a fork
        gap_s = None if think_s is not None else at_s - self._sent_s
        api_s = seconds(item["api_time"], "api_time", where) if "api_time" in item else None
        self._free_s = None if api_s is None else at_s + api_s
        self._sent_s, self._forked = at_s, False
        self._turn += 1
        return replace(
            row,
            head=self.head,
            kind=self.kind,
            session=self.session,
            turn=self._turn - 1,
            think_s=think_s,
            gap_s=gap_s,
        )


def _requests(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    requests = row["requests"]
    if not isinstance(requests, list) or not all(isinstance(r, dict) for r in requests):
        raise InputError("requests must be a list of objects", where=where)
    if not requests:
        raise InputError("a session without requests", where=where)
    return requests


def _head(row: dict[str, Any], where: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (label, tokens(row[key], key, where))
        for label, key in (("tools", "tool_tokens"), ("system", "system_tokens"))
        if key in row
    )


FORMAT = Format(
    "claude-code",
    "one session a line: id, block_size, requests: [{t, type, in, out, hash_ids, …}]",
    frozenset({"id", "block_size", "requests"}),
    frozenset({"hash_id_scope", "models", "tool_tokens", "system_tokens", "totals"}),
    read,
)
