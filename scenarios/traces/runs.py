"""Block ids as runs: a prompt of a thousand blocks is rarely more than a few runs."""

from __future__ import annotations

from operator import sub

import numpy as np
import numpy.typing as npt

from ...policies.errors import InputError
from .idlists import IdList
from .rows import Run

MAX_ID = 1 << 62


def runs_of(ids: object, where: str) -> tuple[Run, ...]:
    """Cut a JSON list of block ids into runs of consecutive ones.

    Raises:
        InputError: not a list, an entry that is no integer, or one outside 0 .. 2**62.
    """
    if isinstance(ids, IdList):
        return _cut(ids.ids)
    if not isinstance(ids, list):
        raise InputError(f"hash_ids must be a list of integers, found {_short(ids)}", where=where)
    if not ids:
        return ()
    if set(map(type, ids)) != {int}:
        bad = next(i for i in ids if type(i) is not int)
        raise InputError(f"hash_ids must be integers, found {_short(bad)}", where=where)
    if min(ids) < 0 or max(ids) > MAX_ID:
        bad = next(i for i in ids if not 0 <= i <= MAX_ID)
        raise InputError(f"hash_ids must lie in 0 .. 2**62, found {_short(bad)}", where=where)
    return cut(ids)


def cut(ids: list[int]) -> tuple[Run, ...]:
    """Runs of a list of at least one id, unchecked."""
    runs: list[Run] = []
    first = ids[0]
    following = first
    for i in ids:
        if i != following:
            runs.append((first, following - first))
            first = i
        following = i + 1
    runs.append((first, following - first))
    return tuple(runs)


def _cut(array: npt.NDArray[np.int64]) -> tuple[Run, ...]:
    breaks = (np.flatnonzero(array[1:] - array[:-1] != 1) + 1).tolist()
    starts = [0, *breaks]
    lengths = map(sub, [*breaks, len(array)], starts)
    return tuple(zip(array[starts].tolist(), lengths, strict=True))


def check_cover(runs: tuple[Run, ...], tokens: int, block_size: int, where: str) -> None:
    """Refuse ids that are neither floor nor ceiling of *tokens* / *block_size* many."""
    blocks = sum(length for _, length in runs)
    if blocks not in (tokens // block_size, -(-tokens // block_size)):
        raise InputError(
            f"{blocks} hash_ids of {block_size} tokens do not fit a prompt of {tokens} tokens",
            where=where,
            help=f"{-(-tokens // block_size)} are expected; is the block size another?",
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
