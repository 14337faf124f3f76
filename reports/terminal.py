"""The summary that `infersim run` prints: the answer, the cells, what to beware of.

Plain text, at most 25 lines of 80 columns for names of ordinary length.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from ..sim.state.records import CellRecords
from .answer import answer, warnings
from .columns import LATENCIES, STATS, Column, columns, rates
from .labels import labels
from .metrics.intervals import spread
from .ranking import Ranking, rank
from .text import MISSING, NBSP, change, count, percent, times

_WIDTH = 80
_ROWS = 12
_WARNINGS = 2
_NAME = 30
_SPREADS = 3  # cells whose intervals are printed


def render(title: str, cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> str:
    """The answer in a sentence or two, then a table, then what to beware of.

    Args:
        title: what was run.
        summaries: `metrics.summarize` of each cell, in the order of *cells*.
    """
    beware = warnings(cells, summaries)
    shown = [f"! {text}" for text in beware[:_WARNINGS]]
    if len(beware) > _WARNINGS:
        shown.append(f"! {len(beware) - _WARNINGS} more in the report")
    body = _single(summaries[0]) if len(cells) == 1 else _cells(cells, summaries)
    text = f"{title}: {answer(cells, summaries)}"
    lines = [*_wrapped(text), *_slo(summaries), *body, *_intervals(cells, summaries)]
    lines += [line for text in shown for line in _wrapped(text)]
    return "\n".join(lines).replace(NBSP, " ")


def _wrapped(text: str) -> list[str]:
    return wrap(text, _WIDTH, break_on_hyphens=False)


def _aligned(rows: Sequence[Sequence[str]], gap: int = 1) -> list[str]:
    """Rows as text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [value.rjust(width + gap) for value, width in zip(rest, widths[1:], strict=True)]
        lines.append("".join(cells).rstrip())
    return lines


def _cells(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> list[str]:
    ranking, names = rank(cells, summaries), labels(cells)
    order, left_out = _rows(ranking, len(cells))
    found = _columns(summaries)
    bounds = {i for i, cell in enumerate(cells) if cell.oracle}
    best = [column.best(summaries, bounds) for column in found]
    measure = "goodput" if ranking.higher_is_better else "E2E"
    heads = [_heading(column) for column in found]
    rows = [
        ["", *(head[0] for head in heads), "Δ"],
        ["cell", *(head[1] for head in heads), measure],
    ]
    for i in order:
        values = [
            ("★" if i in b else "") + column.marked(summaries[i])
            for column, b in zip(found, best, strict=True)
        ]
        delta = "first" if i == 0 else change(ranking.values[i], ranking.values[0]) or MISSING
        rows.append([_name(names[i], best=i == ranking.best), *values, delta])
    more = [f"  {left_out} more cells in the report"] if left_out else []
    return [*_aligned(rows), *more]


def _name(name: str, *, best: bool) -> str:
    short = name if len(name) <= _NAME - 2 else name[: _NAME - 3] + "…"
    return ("★ " if best else "  ") + short


def _rows(ranking: Ranking, n: int) -> tuple[list[int], int]:
    """Which cells to print, in the order of the run: all, or the first and the best ones."""
    if n <= _ROWS:
        return list(range(n)), 0
    sign = -1.0 if ranking.higher_is_better else 1.0
    values = [(sign * v, i) for i, v in enumerate(ranking.values) if v is not None]
    order = [i for _, i in sorted(values)] + [i for i, v in enumerate(ranking.values) if v is None]
    pinned = [0] if ranking.best is None else [0, ranking.best]
    picked = list(dict.fromkeys([*pinned, *order]))[:_ROWS]
    return sorted(picked), n - len(picked)


def _columns(summaries: Sequence[dict[str, Any]]) -> list[Column]:
    """Few enough for 80 columns: hit rate, TTFT, E2E, and goodput or else output."""
    wanted = ("hit rate", "TTFT p50", "TTFT p99", "E2E mean")
    by_name = {column.name: column for column in columns(summaries)}
    rate = by_name.get("goodput") or by_name["output"]
    return [*(by_name[name] for name in wanted), rate]


def _heading(column: Column) -> tuple[str, str]:
    """Two short lines: "TTFT", "p50, ms"."""
    unit = column.unit.replace("requests", "req").replace("tokens", "tok")
    first, _, rest = column.name.partition(" ")
    return first, ", ".join(filter(None, [rest, unit]))


def _single(metrics: dict[str, Any]) -> list[str]:
    """One cell: latencies by percentile, then what else there is to say."""
    rows = [["", *STATS]]
    for metric, name in LATENCIES.items():
        found = metrics[metric]
        if found["n"]:
            weak = ["*" if stat in found["unsupported"] else "" for stat in STATS]
            values = times([found[stat] for stat in STATS])
            rows.append([name, *(v + w for v, w in zip(values, weak, strict=True))])
    facts = {"hit rate": percent(metrics["hit_rate"]), "load": metrics["saturation"]["verdict"]}
    facts |= {column.name: _with_unit(column, metrics) for column in rates([metrics])}
    facts["preemptions"] = count(metrics["preemptions"])
    if swap := metrics["swap"]:
        facts["swapped out"] = count(swap["out"])
    if structured := metrics.get("structured"):
        facts["structured output"] = percent(structured["share"])
    if shares := metrics["step_time"]:
        known = [f"{percent(share)} {grade}" for grade, share in shares.items() if share]
        facts["step times"] = ", ".join(known)
    shown = " · ".join(f"{name} {value}" for name, value in facts.items())
    return [*(_aligned(rows, gap=2) if len(rows) > 1 else []), *_wrapped(shown)]


def _with_unit(column: Column, metrics: dict[str, Any]) -> str:
    return f"{column.marked(metrics)} {column.unit}".strip()


def _intervals(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Where the figures lie if step times are as wrong as they may be; of few cells, else none."""
    found = [metrics.get("intervals") for metrics in summaries]
    if not any(found) or len(found) > _SPREADS:
        return ["intervals: see the report"] if any(found) else []
    lines = []
    for name, interval in zip(labels(cells), found, strict=True):
        who = f"{name}: " if len(found) > 1 else ""
        lines += _wrapped(f"{who}{spread(interval)}") if interval else []
    return lines


def _slo(summaries: Sequence[dict[str, Any]]) -> list[str]:
    found = [metrics["slo_met"] for metrics in summaries if metrics["slo_met"] is not None]
    if not found:
        return []
    if len(summaries) == 1:
        return ["✓ SLO met" if found[0] else "✗ SLO missed"]
    mark = "✓" if all(found) else "✗"
    return [f"{mark} SLO met in {sum(found)} of {len(found)} cells"]
