"""ShareGPT conversations: text without times; tokens are characters divided by a ratio.

There is no tokenizer here, so a text of c characters counts max(1, round(c / ratio)) tokens
(`Options.characters_per_token`, 4 by default: English prose under the usual vocabularies).
A turn's prompt is all that was said before, and the question; the recorded answer is quoted as
the answer the model gave, so it hits the cache. Equal openings of two conversations share.
Answers that no question precedes, and last questions that nothing answers, are left out, counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....policies.errors import InputError, UnknownNameError
from ..rows import Row, Run, Session, Trace
from ..source import Source
from ..values import answer, text
from .base import Format, session_trace

_SPEAKERS = {
    "human": "question",
    "user": "question",
    "system": "question",
    "tool": "question",
    "gpt": "answer",
    "chatgpt": "answer",
    "assistant": "answer",
    "bard": "answer",
    "bing": "answer",
}
_TEXT_KEYS = frozenset({"from", "value"})
_TEXT_EXTRAS = frozenset({"markdown", "text", "weight", "canContinue"})


def read(source: Source) -> Trace:
    """Read a JSON array of conversations, or one conversation a line."""
    return session_trace(source, FORMAT.name, _Reader(source).sessions(), block_size=1)


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._number = 0
        self._texts: dict[tuple[int, str], int] = {}  # (end of what stood before, text) -> start
        self._next = 0

    def sessions(self) -> Iterator[Session]:
        """The conversations that hold an answered question, in file order."""
        known = FORMAT.required | FORMAT.optional
        for number, (line, item) in enumerate(self._conversations()):
            if not isinstance(item, dict):
                raise InputError("a conversation must be a JSON object", where=self._at(line))
            self._source.check_keys(frozenset(item), FORMAT.required, known, line)
            rows = tuple(self._rows(item["conversations"], line, number))
            if rows:
                yield Session(number, str(item.get("id", number)), rows)
            else:
                self._source.count("a conversation without an answered question; dropped")

    def _at(self, line: int) -> str:
        return self._source.where(line)

    def _conversations(self) -> Iterator[tuple[int, Any]]:
        lines = self._source.lines()
        first, start, ended = next(lines)
        if not start.lstrip().startswith("["):
            yield first, self._source.parse(start, first, ended)
            for line, row, ended in lines:
                yield line, self._source.parse(row, line, ended)
            return
        whole = self._source.parse(start + "".join(row for _, row, _ in lines), first)
        for item in whole:
            yield first, item  # JSON arrays do not keep lines

    def _rows(self, said: Any, line: int, session: int) -> Iterator[Row]:
        if not isinstance(said, list):
            raise InputError("conversations must be a list", where=self._at(line))
        ratio = self._source.options.characters_per_token
        runs: list[Run] = []
        history, at, turn = 0, -1, 0
        for item in said:
            speaker, words = self._text(item, line)
            size = max(1, round(len(words) / ratio)) if words else 0
            if speaker == "question":
                if size:
                    start = self._texts.setdefault((at, words), self._next)
                    self._next = max(self._next, start + size)
                    runs.append((start, size))
                    at = start
                continue
            if not runs:
                self._source.count("an answer without a question; left out")
                continue
            out = answer(self._source, size, "an answer", line)
            if out is None:
                return
            fresh = sum(length for _, length in runs)
            yield Row(
                self._number,
                line,
                history + fresh,
                out,
                runs=tuple(runs),
                follows=turn > 0,
                fresh_tokens=fresh if turn else 0,
                kind="chat",
                session=session,
                turn=turn,
            )
            self._number += 1
            history, turn, runs = history + fresh + out, turn + 1, []
        if runs and turn:
            self._source.count("a last question without an answer; left out")

    def _text(self, item: Any, line: int) -> tuple[str, str]:
        where = self._at(line)
        if not isinstance(item, dict):
            raise InputError("what is said must be an object with from and value", where=where)
        self._source.check_keys(frozenset(item), _TEXT_KEYS, _TEXT_KEYS | _TEXT_EXTRAS, line)
        speaker = text(item["from"], "from", where)
        if speaker not in _SPEAKERS:
            raise UnknownNameError("speaker", speaker, _SPEAKERS, where=where)
        return _SPEAKERS[speaker], text(item["value"], "value", where)


FORMAT = Format(
    "sharegpt",
    "JSON: [{id, conversations: [{from, value}, …]}, …]",
    frozenset({"conversations"}),
    frozenset({"id"}),
    read,
)
