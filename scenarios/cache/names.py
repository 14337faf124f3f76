"""Policies and capacities as they are typed on the command line."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from ...policies.errors import InputError
from ..choice import Choice, choose
from ..document import parse
from ..explain import PartError

EVICTION, ROUTING = "--eviction", "--routing"
CAPACITY, KV_TOKENS, BLOCK_TOKENS = "--capacity", "--kv-tokens", "--block-tokens"

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\s*=(.*)", re.DOTALL)
_BRACKETS = re.compile(r"([^()]*)\(([^()]*)\)")
_COLON = re.compile(r"(.+?):([A-Za-z_]\w*\s*=.*)", re.DOTALL)
_COMMA = re.compile(r",(?![^()]*\))")

_EXAMPLES = {
    "eviction": ("an eviction policy", "lru,lfu(counting=global),session-ttl:factor=3,min_s=5"),
    "routing": ("a routing policy", "round-robin,prefix-aware(cache_threshold=0.3)"),
}


class Named(NamedTuple):
    """A policy and what the user called it."""

    label: str
    choice: Choice


def parse_evictions(text: str, folder: Path | None = None) -> list[Named]:
    """Read e.g. ``lru,lfu(counting=global),random:seed=3,my.py:Mine``.

    Commas separate policies. Parameters stand in brackets, or behind a colon; there, pieces
    ``name=value`` after a comma go on with the same policy: ``session-ttl:factor=3,min_s=5,lru``.

    Args:
        text: what was typed.
        folder: what paths of files are relative to; None for the working directory.

    Raises:
        InputError: a policy or parameter that there is not, or a piece that cannot be read.
    """
    return _named("eviction", EVICTION, text, folder)


def parse_routings(text: str, folder: Path | None = None) -> list[Named]:
    """As `parse_evictions`, for routers."""
    return _named("routing", ROUTING, text, folder)


def _named(family: str, option: str, text: str, folder: Path | None) -> list[Named]:
    pieces: list[str] = []
    for piece in map(str.strip, _COMMA.split(text)):
        if _ASSIGNMENT.fullmatch(piece) and pieces and _COLON.fullmatch(pieces[-1]):
            pieces[-1] += f",{piece}"
        else:
            pieces.append(piece)
    return [Named(piece, _choice(family, option, piece, folder or Path())) for piece in pieces]


def _choice(family: str, option: str, piece: str, folder: Path) -> Choice:
    where = f"{option} {piece}".rstrip()
    match = _BRACKETS.fullmatch(piece) or _COLON.fullmatch(piece)
    name, assignments = (match[1].strip(), match[2]) if match else (piece, "")
    if not name or _ASSIGNMENT.fullmatch(name) or set("()") & set(name):
        raise InputError(
            f'found "{piece}" where the name of {_EXAMPLES[family][0]} is expected',
            where=where,
            help=f"e.g. {option} '{_EXAMPLES[family][1]}'",
        )
    try:
        return choose(family, name, _params(assignments, where), [folder])
    except PartError as part:
        key = ".".join(map(str, part.path))
        raise InputError(
            part.error.message, where=f"{where}  {key}", help=part.error.help
        ) from None
    except InputError as error:
        raise InputError(error.message, where=where, help=error.help) from None


def _params(text: str, where: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for part in text.split(",") if text.strip() else []:
        match = _ASSIGNMENT.fullmatch(part.strip())
        if match is None:
            raise InputError(f'found "{part.strip()}", expected parameter=value', where=where)
        if match[1] in params:
            raise InputError(f'"{match[1]}" is set twice', where=where)
        params[match[1]] = parse(match[2].strip(), where).data
    return params


def parse_capacities(text: str) -> list[float]:
    """Read e.g. ``1000,10000,inf``: blocks.

    Raises:
        InputError: an entry that is neither a whole number from 1 nor inf.
    """
    return [_capacity(piece.strip()) for piece in text.split(",")]


def _capacity(piece: str) -> float:
    if piece == "inf":
        return inf
    if not re.fullmatch(r"[0-9]{1,15}", piece) or int(piece) == 0:
        raise InputError(
            f'found "{piece}" where a capacity in blocks is expected',
            where=f"{CAPACITY} {piece}".rstrip(),
            help="a whole number from 1, or inf: --capacity 1000,10000,inf",
        )
    return int(piece)


def parse_tokens(text: str, option: str = KV_TOKENS) -> list[int]:
    """Read e.g. ``500k,3M``: tokens of KV.

    Raises:
        InputError: an entry that is no whole number from 1, with k or M behind it or not.
    """
    return [_tokens(piece.strip(), option) for piece in text.split(",")]


def _tokens(piece: str, option: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([kM]?)", piece)
    tokens = int(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]] if match else 0
    if not tokens:
        raise InputError(
            f'found "{piece}" where a number of tokens is expected',
            where=f"{option} {piece}".rstrip(),
            help="a whole number from 1, also in k or M, e.g. --kv-tokens 500k,3M",
        )
    return tokens
