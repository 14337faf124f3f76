"""What `infersim validate` prints: the answer, one table, what to beware of."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from ..text import MISSING, NBSP, count
from .words import (
    SERIES,
    answer,
    correlation,
    differing,
    error,
    find,
    label,
    limit,
    noise,
    signed,
    swing,
    values,
)

_WIDTH = 88
_WARNINGS = 4
_ROWS = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "output_tokens_per_s", "hit_rate", "preemptions")
_SWINGS = (("step time +1 %", "step time −1 %"), ("KV blocks +5 %", "KV blocks −5 %"))
Data = dict[str, Any]


def render(data: Data) -> str:
    """The answer in a sentence or two, then figures, then checks and warnings.

    Args:
        data: as `calibrate.compare.validate` makes it, with ``scenario``.
    """
    cells = data["cells"]
    lines = _wrapped(f"{data['scenario']}: {answer(data)}")
    lines += _single(cells[0]) if len(cells) == 1 else _grid(cells)
    lines += [limit(row) for row in data["checks"]]
    warnings = list(dict.fromkeys(text for c in cells for text in c["caveats"]["warnings"]))
    lines += [line for text in warnings[:_WARNINGS] for line in _wrapped(f"! {text}")]
    if len(warnings) > _WARNINGS:
        lines.append(f"! {len(warnings) - _WARNINGS} more in the report")
    return "\n".join(lines).replace(NBSP, " ")


def capacity(cell: Data) -> str:
    """KV capacity of both sides, in words."""
    found = cell["capacity"]
    if found["measured"] is None:
        return f"KV {found['unit']}: not known measured, {count(found['simulated'])} simulated"
    equal = "equal" if found["error"] == 0 else signed(found["error"])
    return (
        f"KV {found['unit']}: {count(found['measured'])} measured, "
        f"{count(found['simulated'])} simulated ({equal})"
    )


def _single(cell: Data) -> list[str]:
    rows = [row for row in cell["rows"] if row["metric"] in _ROWS]
    columns = {"": [label(row) for row in rows]}
    both = [values(row) for row in rows]
    columns["measured"] = [pair[0] for pair in both]
    columns["simulated"] = [pair[1] for pair in both]
    columns["error"] = [error(row) for row in rows]
    if any(row["noise"] is not None for row in rows):
        columns["repeats"] = [noise(row) for row in rows]
    if any(row["changes"] for row in rows):
        for names, head in zip(_SWINGS, ("step ±1 %", "KV ±5 %"), strict=True):
            columns[head] = [swing(row, names) for row in rows]
    table = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    return [capacity(cell), *_steps(cell), *_aligned(table), *_series(cell)]


def _steps(cell: Data) -> list[str]:
    steps = cell["steps"]
    if steps is None:
        return []
    lines = []
    if steps["first_difference"] is not None:
        rows = differing(steps["first_difference"])
        shown = "; ".join(
            f"{what} {theirs} measured, {ours} simulated" for what, theirs, ours in rows
        )
        lines += _wrapped(f"first difference: {shown}")
    parts = [
        f"{row['kind']} {signed(row['median'], sign=False)} median, "
        f"{signed(row['p95'], sign=False)} p95, bias {signed(row['bias'])} (n {count(row['n'])}"
        + ("" if row["noise"] is None else f", repeats {signed(row['noise'], sign=False)} apart")
        + ")"
        for row in steps["times"]
    ]
    return [*lines, *_wrapped(f"step time error: {'; '.join(parts) or MISSING}")]


def _series(cell: Data) -> list[str]:
    if not cell["series"]:
        return []
    parts = [
        f"{SERIES[name]} {correlation(one['correlation'])}"
        + ("" if one["gated"] else " (proves little)")
        for name, one in cell["series"].items()
    ]
    return [f"correlation over time: {' · '.join(parts)}"]


def _grid(cells: Sequence[Data]) -> list[str]:
    """One row a cell: the errors of the means."""
    heads = (
        ("TTFT", "ttft_s", "mean"),
        ("TPOT", "tpot_s", "mean"),
        ("E2E", "e2e_s", "mean"),
        ("output/s", "output_tokens_per_s", "value"),
        ("hit rate", "hit_rate", "value"),
    )
    rows = [["error of the mean", *(head for head, _, _ in heads), "KV"]]
    for cell in cells:
        found = [find(cell, metric, stat) for _, metric, stat in heads]
        shown = [MISSING if row is None else error(row) for row in found]
        rows.append([cell["name"], *shown, signed(cell["capacity"]["error"])])
    return _aligned(rows)


def _wrapped(text: str) -> list[str]:
    return wrap(text, _WIDTH, break_on_hyphens=False)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
