"""The table of a profile's operations, for the terminal and the page."""

from __future__ import annotations

from typing import Any

from ..text import MISSING, percent

HEADS = (
    "operation",
    "launches",
    "points",
    "grades",
    "sigma",
    "measured",
    "noisy",
    "left out p50",
    "p95",
    "bias",
    "uneven",
)


def row(one: dict[str, Any]) -> tuple[object, ...]:
    """Cells of one operation under `HEADS`, from a row of `calibrate.checking.Checked.rows`."""
    counts = [MISSING if one[key] is None else one[key] for key in ("measured", "noisy")]
    return (
        one["op"],
        one["launches"],
        one["points"],
        ", ".join(f"{share:.0%} {grade}" for grade, share in one["grades"].items()),
        percent(one["sigma"]),
        *counts,
        percent(one["left_out_p50"]),
        percent(one["left_out_p95"]),
        _signed(one["bias"]),
        _signed(one["uneven"]),
    )


def _signed(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{100 * value:+.1f}\u00a0%".replace("-", "−")
