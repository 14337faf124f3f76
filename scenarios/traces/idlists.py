"""Long lists of block ids in JSON, read several times faster than as Python lists.

A trace can hold sixty million ids. Lists behind the key ``hash_ids`` that are long and plain are
cut out of the text and parsed by numpy; all others stay, and are read and judged as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_OPENING = re.compile(r'"hash_ids": ?\[')
_MARK = "<list of ids>"
_DIGITS = b"0123456789"
_LEADING_ZERO = re.compile(rb"\b0[0-9]")
_SHORT = 200  # characters that Python's own parser is through with sooner
_MOST = 10**18  # ids are below, so that int64 holds them


class IdList:
    """A JSON list of at least one id.

    Attributes:
        ids: int64, in order.
    """

    __slots__ = ("ids",)

    def __init__(self, ids: npt.NDArray[np.int64]) -> None:
        self.ids = ids


def loads(text: str, parse_constant: Callable[[str], Any]) -> Any:
    """`json.loads`, with long plain lists behind "hash_ids" as `IdList`.

    Raises:
        ValueError: bad JSON.
    """
    decoder, lists = _decoder(parse_constant)
    lists.clear()
    if "hash_ids" in text and _MARK not in text:
        text = _cut_out(text, lists)
    return decoder.decode(text)


@cache
def _decoder(parse_constant: Callable[[str], Any]) -> tuple[json.JSONDecoder, list[IdList]]:
    """A decoder, and the lists that it puts back where their marks are."""
    lists: list[IdList] = []

    def restore(item: dict[str, Any]) -> dict[str, Any]:
        marked = item.get("hash_ids")
        if lists and isinstance(marked, str) and marked.startswith(_MARK):
            item["hash_ids"] = lists[int(marked[len(_MARK) :])]
        return item

    return json.JSONDecoder(parse_constant=parse_constant, object_hook=restore), lists


def _cut_out(text: str, lists: list[IdList]) -> str:
    """*text* with a mark for each long plain list, which is added to *lists*."""
    kept: list[str] = []
    done = 0
    opening = _OPENING.search(text)
    while opening is not None:
        start = opening.end()
        end = text.find("]", start)
        ids = _plain(text[start:end]) if end - start > _SHORT else None
        if ids is not None:
            kept += (text[done : start - 1], f'"{_MARK}{len(lists)}"')
            lists.append(IdList(ids))
            start = done = end + 1
        opening = _OPENING.search(text, start)
    kept.append(text[done:])
    return "".join(kept)


def _plain(inside: str) -> npt.NDArray[np.int64] | None:
    """The ids between two brackets; None: something that only a JSON parser should judge.

    Plain are whole numbers below 10**18 without leading zeros, all with the same separator, a comma
    or a comma and a space. Everything is looked at by a few passes in C over the whole text.
    """
    if not inside.isascii() or not (inside[:1].isdigit() and inside[-1:].isdigit()):
        return None
    raw = inside.encode()
    gaps = raw.translate(None, _DIGITS)
    comma = b", " if b" " in gaps else b","
    count = len(gaps) // len(comma)
    if gaps != comma * count or raw.count(comma) != count or comma + comma in raw:
        return None
    if (raw[:1] == b"0" or comma + b"0" in raw) and _LEADING_ZERO.search(raw):
        return None
    ids = np.fromstring(inside, dtype=np.int64, sep=",")
    return ids if ids.max() < _MOST else None  # what is larger than int64 is read as its maximum
