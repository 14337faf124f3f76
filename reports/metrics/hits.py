"""Prefix hits and misses: overall, by turn of the session, by reason, by segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .stats import ratio
from .window import Window

#: Why a prompt token missed: column prefix -> what it says to a reader.
MISS_REASONS = {
    "never_seen": "never seen before",
    "evicted": "seen, then evicted",
    "diverged": "same text behind another prefix",
    "elsewhere": "only on another replica",
    "rounding": "block rounding",
}
_SINGLE_TURNS = 32  # from here on turns share bins that double in width
_SEGMENTS = 12


def hits(window: Window) -> dict[str, Any]:
    """hit_rate, hit_tokens, prompt_tokens, remote_tokens, hit_rate_by_turn.

    Only requests that were ever scheduled looked at the cache; the others are left out.
    """
    looked = window.columns["scheduled_ps"] >= 0
    columns = {name: column[looked] for name, column in window.columns.items()}
    hit, prompt = int(columns["hit_tokens"].sum()), int(columns["prompt_tokens"].sum())
    return {
        "hit_rate": ratio(hit, prompt),
        "hit_tokens": hit,
        "prompt_tokens": prompt,
        "remote_tokens": int(columns["remote_tokens"].sum()),
        "hit_rate_by_turn": _by_turn(columns),
    }


def _turn_bins(turns: NDArray[Any]) -> NDArray[np.int64]:
    """First turn of the bin of each turn: itself below 32, then 32, 64, 128 …"""
    exponent = np.floor(np.log2(np.maximum(turns, 1))).astype(np.int64)
    return np.where(turns < _SINGLE_TURNS, turns, 1 << exponent).astype(np.int64)


def _by_turn(columns: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    in_session = columns["session"] >= 0
    turns = columns["turn"][in_session]
    prompt, hit = columns["prompt_tokens"][in_session], columns["hit_tokens"][in_session]
    bins = _turn_bins(turns)
    rows = []
    for first in np.unique(bins):
        here = bins == first
        rows.append(
            {
                "turn": int(first),
                "to_turn": int(turns[here].max()),
                "requests": int(here.sum()),
                "prompt_tokens": int(prompt[here].sum()),
                "hit_tokens": int(hit[here].sum()),
                "hit_rate": ratio(int(hit[here].sum()), int(prompt[here].sum())),
            }
        )
    return rows


def misses(window: Window) -> dict[str, Any]:
    """missed: tokens and seconds by reason; missed_by_segment: by where the first miss lies."""
    return {
        "missed": {reason: _missed(window.columns, reason) for reason in MISS_REASONS},
        "missed_by_segment": _by_segment(window.columns),
    }


def _missed(columns: dict[str, NDArray[Any]], reason: str) -> dict[str, Any]:
    tokens = columns[f"{reason}_tokens"]
    return {
        "tokens": int(tokens.sum()),
        "s": int(columns[f"{reason}_ps"].sum()) / 1e12,
        "requests": int((tokens > 0).sum()),
    }


def _by_segment(columns: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """One row a segment label, most missed tokens first; the rest pooled after 12."""
    labels, which = np.unique(columns["first_miss"].astype(str), return_inverse=True)

    def total(values: NDArray[Any]) -> list[int]:
        sums = np.zeros(len(labels), dtype=np.int64)
        np.add.at(sums, which, values)
        return sums.tolist()

    missed = np.sum([columns[f"{reason}_tokens"] for reason in MISS_REASONS], axis=0)
    found: dict[str, list[Any]] = {"requests": total(missed > 0)}
    for reason in MISS_REASONS:
        found[f"{reason}_tokens"] = total(columns[f"{reason}_tokens"])
        found[f"{reason}_s"] = [ps / 1e12 for ps in total(columns[f"{reason}_ps"])]
    rows = [
        {"segment": label or "(no label)", **{name: found[name][i] for name in found}}
        for i, label in enumerate(labels.tolist())
        if found["requests"][i]
    ]
    rows.sort(key=lambda row: (-_missed_tokens(row), row["segment"]))
    if len(rows) <= _SEGMENTS:
        return rows
    rest = rows[_SEGMENTS - 1 :]
    sums = {name: sum(row[name] for row in rest) for name in found}
    return [*rows[: _SEGMENTS - 1], {"segment": f"({len(rest)} others)", **sums}]


def _missed_tokens(row: dict[str, Any]) -> int:
    return sum(row[f"{reason}_tokens"] for reason in MISS_REASONS)
