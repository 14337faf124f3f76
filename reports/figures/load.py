"""Preemptions, and how busy the replicas were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..text import count, percent, plural
from .bars import Part, bars
from .style import PALETTE, Figure, Key

_VERDICTS = {"STABLE": PALETTE[0], "BACKLOGGED": PALETTE[1], "OVERLOADED": PALETTE[3]}


def preemptions(
    names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int
) -> Figure | None:
    """Preemptions by cell; None when there were none."""
    found = [metrics["preemptions"] for metrics in summaries]
    if not any(found):
        return None
    data, frame = bars(
        names,
        [count(n) for n in found],
        [Part("preemptions", PALETTE[3], found)],
        "preemptions in the whole run",
        marked=focus if len(names) > 1 else None,
    )
    if len(names) == 1:
        title = plural(found[0], "preemption")
    else:
        most = max(range(len(found)), key=lambda i: (found[i], -i))
        title = f"Most preemptions in {names[most]}: {count(found[most])}"
        title += f"; {count(found[focus])} in {names[focus]}" if focus != most else ""
    return Figure(title, title, data, frame)


def busy(names: Sequence[str], summaries: Sequence[dict[str, Any]], focus: int) -> Figure | None:
    """Share of the time in which the replicas computed, coloured by verdict."""
    shares = [metrics["busy_share"] for metrics in summaries]
    if any(share is None for share in shares):
        return None
    verdicts = [metrics["saturation"]["verdict"] for metrics in summaries]
    parts = [
        Part(
            v,
            color,
            [100 * s if v == mine else 0.0 for s, mine in zip(shares, verdicts, strict=True)],
        )
        for v, color in _VERDICTS.items()
        if v in verdicts
    ]
    shown = [percent(share) for share in shares]
    data, frame = bars(
        names,
        shown,
        parts,
        "time in which the replicas compute, %",
        marked=focus if len(names) > 1 else None,
        x_max=100,
    )
    stable = verdicts.count("STABLE")
    if len(names) == 1:
        title = f"{verdicts[0]}: the replicas are busy {percent(shares[0])} of the time"
    else:
        range_ = f"{percent(min(shares))} to {percent(max(shares))}"
        title = f"{stable} of {len(names)} cells are STABLE; replicas are busy {range_} of the time"
    return Figure(title, title, data, frame, [Key(part.name, part.color) for part in parts])
