"""Numbers as people read them: three significant digits, a unit, a true minus sign."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
NBSP = "\u00a0"  # number and unit stay on one line


def significant(value: float, digits: int = 3) -> str:
    """*digits* significant digits, thousands separated, never an exponent: 0.0123, 4.56, 78,900."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{min(decimals, 9)}f}".replace("-", "−")


def span(low: float, high: float) -> str:
    """Two times of a range: "1.2–1.5 s"."""
    first, last = times([low, high])
    same = first.rpartition(NBSP)[2] == last.rpartition(NBSP)[2]
    return f"{first.rpartition(NBSP)[0] if same else first}–{last}"


def count(value: float | None) -> str:
    """A whole number with separated thousands."""
    return MISSING if value is None else f"{round(value):,}".replace("-", "−")


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return MISSING if value is None else significant(value)


def percent(value: float | None) -> str:
    """A share 0..1 as a percentage with one decimal."""
    return MISSING if value is None else f"{value * 100:.1f}{NBSP}%"


def time(value_s: float | None) -> str:
    """Seconds as ms below 10 s, else s."""
    if value_s is None:
        return MISSING
    return times([value_s])[0]


def times(values_s: Sequence[float]) -> list[str]:
    """Seconds that stand side by side, all in one unit: ms when all are below 10 s, else s."""
    unit, scale = time_unit(max(values_s, default=0.0))
    return [f"{significant(value * scale)}{NBSP}{unit}" for value in values_s]


def time_unit(longest_s: float) -> tuple[str, float]:
    """Name and factor of the unit for seconds up to *longest_s*: ms below 10 s, else s."""
    return ("ms", 1e3) if longest_s < 10 else ("s", 1.0)


def compact(value: float) -> str:
    """Three significant digits with k, M or G: "426 k", "3.17 M"."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{significant(value / factor)}{NBSP}{unit}"
    return significant(value)


def size(value_bytes: float | None) -> str:
    """Bytes as B, KiB, MiB, GiB or TiB."""
    if value_bytes is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value_bytes) < 1024:
            return f"{significant(value_bytes)}{NBSP}{unit}"
        value_bytes /= 1024
    return f"{significant(value_bytes)}{NBSP}TiB"


def change(value: float | None, first: float | None) -> str:
    """Relative difference to *first*, e.g. "−12.3 %"; "=" below 0.05 %; "" when undefined."""
    if value is None or not first:
        return ""
    return _signed(100 * (value / first - 1), f"{NBSP}%")


def compared(value: float | None, first: float | None) -> str:
    """Relative difference in words: "12.3 % less than"; "" when undefined or below 0.05 %."""
    shown = change(value, first)
    if shown in ("", "="):
        return ""
    return f"{shown[1:]} {'less' if shown[0] == '−' else 'more'} than"


def points(value: float | None, first: float | None) -> str:
    """Difference of two shares in percentage points, e.g. "+4.5 pt"."""
    if value is None or first is None:
        return ""
    return _signed(100 * (value - first), f"{NBSP}pt")


def _signed(value: float, unit: str) -> str:
    if abs(value) < 0.05:
        return "="
    shown = f"{value:+.1f}" if abs(value) < 1000 else f"{value:+,.0f}"
    return shown.replace("-", "−") + unit


def plural(n: int, noun: str) -> str:
    """ "1 request", "2 requests"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
