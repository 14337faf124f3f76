"""Why prompts missed: tokens and seconds by reason, divergence by segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..metrics.hits import MISS_REASONS
from ..text import compact, percent, times
from .bars import Part, bars
from .style import MAX_SERIES, OTHERS, PALETTE, Figure, Key

_COLORS = dict(zip(MISS_REASONS, (OTHERS, *PALETTE[1:]), strict=False))


def missed_tokens(
    names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int
) -> Figure | None:
    """Tokens that missed, stacked by reason; None when nothing missed."""
    return _missed(names, summaries, focus, "tokens", "prompt tokens computed")


def missed_seconds(
    names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int
) -> Figure | None:
    """What computing them cost, stacked by reason; None when nothing missed."""
    return _missed(names, summaries, focus, "s", "seconds of prefill, s")


def _missed(
    names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int, unit: str, axis: str
) -> Figure | None:
    totals = [sum(m["missed"][reason][unit] for reason in MISS_REASONS) for m in summaries]
    if not any(totals):
        return None
    parts = [
        Part(words, _COLORS[reason], [m["missed"][reason][unit] for m in summaries])
        for reason, words in MISS_REASONS.items()
        if any(m["missed"][reason][unit] for m in summaries)
    ]
    shown = times(totals) if unit == "s" else [compact(total) for total in totals]
    data, frame = bars(names, shown, parts, axis, marked=_mark(names, focus))
    title = _title(names, summaries[focus]["missed"], totals[focus], focus, unit)
    return Figure(title, title, data, frame, [Key(part.name, part.color) for part in parts])


def _mark(names: Sequence[str], focus: int) -> int | None:
    return focus if len(names) > 1 else None


def _title(
    names: Sequence[str], missed: dict[str, Any], total: float, focus: int, unit: str
) -> str:
    where = f" in {names[focus]}" if len(names) > 1 else ""
    if not total:
        return f"Nothing missed{where}"
    shares = sorted(((missed[r][unit] / total, r) for r in MISS_REASONS), reverse=True)
    parts = [f"{percent(share)} {MISS_REASONS[r]}" for share, r in shares[:2] if share > 0]
    what = "tokens that missed" if unit == "tokens" else "time that misses cost"
    return f"Of the {what}{where}: {', '.join(parts)}"


def diverged_by_segment(
    names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int
) -> Figure | None:
    """Diverged tokens stacked by the segment of the first miss; None when nothing diverged."""
    totals: dict[str, int] = {}
    for metrics in summaries:
        for row in metrics["missed_by_segment"]:
            totals[row["segment"]] = totals.get(row["segment"], 0) + row["diverged_tokens"]
    ranked = sorted((name for name, n in totals.items() if n), key=lambda n: (-totals[n], n))
    if not ranked:
        return None
    own = ranked if len(ranked) <= MAX_SERIES else ranked[: MAX_SERIES - 1]
    found = [_tokens_by_segment(metrics) for metrics in summaries]
    parts = [Part(s, PALETTE[n], [row.get(s, 0) for row in found]) for n, s in enumerate(own)]
    if rest := ranked[len(own) :]:
        pooled = [sum(row.get(segment, 0) for segment in rest) for row in found]
        parts.append(Part(f"{len(rest)} other segments", OTHERS, pooled))
    sums = [sum(row.values()) for row in found]
    data, frame = bars(
        names, [compact(n) for n in sums], parts, "diverged tokens", marked=_mark(names, focus)
    )
    share = percent(totals[ranked[0]] / sum(totals.values()))
    title = f"{share} of the diverged tokens are in prompts whose first miss lies in “{ranked[0]}”"
    return Figure(title, title, data, frame, [Key(part.name, part.color) for part in parts])


def _tokens_by_segment(metrics: dict[str, Any]) -> dict[str, int]:
    return {row["segment"]: row["diverged_tokens"] for row in metrics["missed_by_segment"]}
