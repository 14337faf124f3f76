"""Checked values of measured files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ....policies.errors import InputError
from ....scenarios.traces.compressed import read_lines
from ..measured import Floats

_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def number(value: Any, name: str, where: str) -> float:
    """A finite number.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        shown = json.dumps(value, default=str)[:60]
        raise InputError(f"{name} must be a finite number, found {shown}", where=where)
    return float(value)


def in_seconds(value: float, unit: str, name: str, where: str) -> float:
    """*value* in seconds.

    Raises:
        InputError: a unit that is none of time.
    """
    if unit not in _SECONDS:
        raise InputError(
            f'{name} has the unit "{unit}"', where=where, help=f"known: {', '.join(_SECONDS)}"
        )
    return value * _SECONDS[unit]


def floats(values: list[float]) -> Floats:
    """As an array."""
    return np.array(values, dtype=np.float64)


def text_of(path: Path) -> str:
    """The whole of a text file, plain or compressed.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    raw = b"".join(line for _, line in read_lines(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error}", where=str(path)) from None


def json_of(path: Path) -> Any:
    """The JSON value that a file holds.

    Raises:
        InputError: it is damaged, or holds several.
    """
    try:
        return json.loads(text_of(path))
    except ValueError as error:
        message = f"bad JSON: {error}"
        help = ""
        if "Extra data" in str(error):
            message = "several JSON results in one file"
            help = "give one: `vllm bench serve --append-result` puts them together"
        raise InputError(message, where=str(path), help=help) from None
