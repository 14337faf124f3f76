"""A validation in words: errors, values, the answer in a sentence or two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..metrics import MIN_SAMPLES
from ..text import MISSING, NBSP, count, number, percent, plural, times

#: a figure -> what people call it
NAMES = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "itl_s": "ITL",
    "e2e_s": "E2E",
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "output tokens/s",
    "total_tokens_per_s": "total tokens/s",
    "duration_s": "duration",
    "hit_rate": "hit rate",
    "preemptions": "preemptions",
    "steps": "steps",
}
#: a quantity over time -> what people call it
SERIES = {"running": "running", "kv": "KV", "waiting": "waiting"}
#: metrics of the answer, most telling first
_LEADING = ("tpot_s", "ttft_s", "e2e_s")

Data = dict[str, Any]


def label(row: Data) -> str:
    """ "TTFT p90", "hit rate"."""
    name = NAMES[row["metric"]]
    return name if row["stat"] == "value" else f"{name} {row['stat']}"


def values(row: Data) -> tuple[str, str]:
    """The measured and the simulated value in one unit, with * where the sample is too small."""
    pair = [row["measured"], row["simulated"]]
    mark = "*" if weak(row) else ""
    if row["share"]:
        shown = [percent(value) for value in pair]
    elif row["metric"].endswith("_s") and not row["metric"].endswith("_per_s"):
        shown = times(pair)
    elif row["metric"] in ("preemptions", "steps"):
        shown = [count(value) for value in pair]
    else:
        shown = [number(value) for value in pair]
    return shown[0] + mark, shown[1] + mark


def weak(row: Data) -> bool:
    """Whether a percentile has too few samples for a 95 % interval."""
    return row["n"] is not None and row["n"] < MIN_SAMPLES.get(row["stat"], 0)


def signed(share: float | None, *, points: bool = False, sign: bool = True) -> str:
    """A relative error or difference of shares, signed: "−0.4 %", "+1.2 pt"."""
    if share is None:
        return MISSING
    value = 100 * share
    decimals = 0 if abs(value) >= 99.95 else 2 if abs(value) < 0.095 else 1
    text = f"{value:{'+' if sign else ''},.{decimals}f}".replace("-", "−")
    if not float(f"{value:.{decimals}f}"):
        text = "0"
    return f"{text}{NBSP}{'pt' if points else '%'}"


def error(row: Data) -> str:
    """The error of a row."""
    return signed(row["error"], points=row["share"])


def noise(row: Data) -> str:
    """Half the range of the measured repeats."""
    if row["noise"] is None:
        return MISSING
    return "±" + signed(row["noise"], points=row["share"], sign=False)


def swing(row: Data, names: Sequence[str]) -> str:
    """How the simulated value moves under changes, without the unit: "+1.2 / −1.1"."""
    found = [row["changes"].get(name) for name in names]
    if any(value is None for value in found):
        return MISSING
    return " / ".join(signed(value, points=row["share"]).partition(NBSP)[0] for value in found)


def correlation(value: float | None) -> str:
    """Three decimals, rounded down: .9799 must not look like .98."""
    return MISSING if value is None else f"{math.floor(value * 1000) / 1000:.3f}".replace("-", "−")


def find(cell: Data, metric: str, stat: str) -> Data | None:
    """A row of the table of a cell."""
    rows = (row for row in cell["rows"] if (row["metric"], row["stat"]) == (metric, stat))
    return next(rows, None)


def answer(data: Data) -> str:
    """What came out, in a sentence or two."""
    sentences = [_errors(data["cells"])]
    first = data["cells"][0]
    if len(data["cells"]) == 1 and first["steps"] is not None:
        sentences.append(decisions(first["steps"]))
    taus = [(NAMES[r["metric"]], r["tau"]) for r in data["ranking"] if not r["all_tied"]]
    if taus:
        shown = ", ".join(f"{name} {correlation(tau)}" for name, tau in taus)
        sentences.append(f"Kendall τ of the ranking: {shown}.")
    broken = [row for row in data["checks"] if not row["met"]]
    if data["checks"]:
        limits = plural(len(data["checks"]), "limit")
        sentences.append(f"{len(broken)} of {limits} broken." if broken else f"{limits} kept.")
    return " ".join(sentences)


def _errors(cells: Sequence[Data]) -> str:
    parts = []
    for metric in _LEADING:
        rows = [row for cell in cells if (row := find(cell, metric, "mean")) is not None]
        errors = [row["error"] for row in rows if row["error"] is not None]
        if not errors:
            continue
        if len(cells) == 1:
            parts.append(f"{NAMES[metric]} mean {signed(errors[0])}{_share(cells[0], metric)}")
        else:
            low, high = signed(min(errors)), signed(max(errors))
            parts.append(f"{NAMES[metric]} mean {low} to {high}")
    where = "" if len(cells) == 1 else f"{len(cells)} cells: "
    if not parts:
        return "No latency could be compared."
    return f"{where}{', '.join(parts)}: simulated against measured."


def _share(cell: Data, metric: str) -> str:
    share = cell["ttft_share_of_e2e"]
    if metric != "ttft_s" or share is None:
        return ""
    return f" ({signed(share)} of mean E2E)"


def decisions(steps: Data) -> str:
    """Whether every step was decided alike."""
    if steps["first_difference"] is None:
        return f"All {count(steps['measured'])} steps were decided alike."
    first = steps["first_difference"]
    return (
        f"{count(steps['same'])} of {count(steps['measured'])} steps were decided alike before "
        f"the first difference: step {count(first['step'])} of replica {first['replica']}."
    )


def differing(first: Data) -> list[tuple[str, str, str]]:
    """(what, measured, simulated) of the plans of the first step that differs."""
    theirs, ours = first["measured"], first["simulated"]
    if theirs is None or ours is None:
        ended = "the run had ended"
        return [
            ("step", ended if theirs is None else "a step", ended if ours is None else "a step")
        ]
    rows = [
        (key.replace("_", " "), str(value), str(ours[key]))
        for key, value in theirs.items()
        if value != ours[key]
    ]
    counts = [row for row in rows if row[0] != "digest"]
    return counts or [("who computes what (digest)", theirs["digest"], ours["digest"])]


def limit(row: Data) -> str:
    """One checked limit: "✗ ttft ≤ 2 %: 5.09 % at ttft mean"."""
    mark, relation = ("✓" if row["met"] else "✗"), ("≥" if row["least"] else "≤")
    counted = row["least"] or row["name"] == "decisions"
    unit = "" if counted else f"{NBSP}%"
    if row["name"] == "hit":
        unit = f"{NBSP}pt"
    name = f"{mark} {row['name']} {relation} {row['limit']:g}{unit}"
    if row["worst"] is None:
        return f"{name}: {row['at']}"
    worst = correlation(row["worst"]) if row["least"] else number(row["worst"])
    return f"{name}: {worst}{unit} ({row['at']})"
