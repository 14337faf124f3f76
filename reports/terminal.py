"""The summary that `infersim run` prints: the answer, the cells, the warnings; 25 lines at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..sim.state.records import CellRecords
from .answer import answer, warnings
from .columns import LATENCIES, STATS, Column, columns, rates
from .labels import labels
from .ranking import Ranking, rank
from .text import MISSING, change, count, percent, times

_ROWS = 12  # with head, answer and warnings this keeps to 25 lines of 80 columns
_WARNINGS = 2
_NAME = 30


def render(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> RenderableType:
    """What rich prints: the answer in a sentence or two, then a table, then what to beware of.

    Args:
        summaries: `metrics.summarize` of each cell, in the order of *cells*.
    """
    body = _single(summaries[0]) if len(cells) == 1 else _cells(cells, summaries)
    beware = warnings(cells, summaries)
    lines = [Text(f"! {text}", style="yellow") for text in beware[:_WARNINGS]]
    if len(beware) > _WARNINGS:
        lines.append(Text(f"! {len(beware) - _WARNINGS} more in the report", style="yellow"))
    return Group(Text(answer(cells, summaries), style="bold"), *_slo(summaries), body, *lines)


def _cells(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> Table:
    ranking, names = rank(cells, summaries), labels(cells)
    shown, left_out = _rows(ranking, len(cells))
    found = _columns(summaries)
    bounds = {i for i, cell in enumerate(cells) if cell.oracle}
    best = [column.best(summaries, bounds) for column in found]
    caption = f"{left_out} more cells in the report" if left_out else None
    table = Table(box=None, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("cell", overflow="ellipsis", no_wrap=True, max_width=_NAME)
    for column in found:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    measure = "goodput" if ranking.higher_is_better else "E2E"
    table.add_column(f"Δ\n{measure}", justify="right", no_wrap=True)
    for i in shown:
        values = [_value(c, summaries[i], i in b) for c, b in zip(found, best, strict=True)]
        delta = "first" if i == 0 else change(ranking.values[i], ranking.values[0]) or MISSING
        star = "★ " if i == ranking.best else "  "
        style = "bold" if i == ranking.best else ""
        table.add_row(star + names[i], *values, delta, style=style)
    return table


def _value(column: Column, metrics: dict[str, Any], best: bool) -> Text:
    return Text(column.marked(metrics), style="bold green" if best else "")


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


def _heading(column: Column) -> str:
    """Two short lines: "TTFT / p50, ms"."""
    unit = column.unit.replace("requests", "req").replace("tokens", "tok")
    first, _, rest = column.name.partition(" ")
    return f"{first}\n{', '.join(filter(None, [rest, unit]))}"


def _single(metrics: dict[str, Any]) -> Group:
    """One cell: latencies by percentile, then what else there is to say."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for stat in STATS:
        table.add_column(stat, justify="right", no_wrap=True)
    for metric, name in LATENCIES.items():
        found = metrics[metric]
        if found["n"]:
            weak = ["*" if stat in found["unsupported"] else "" for stat in STATS]
            values = times([found[stat] for stat in STATS])
            table.add_row(name, *(v + w for v, w in zip(values, weak, strict=True)))
    facts = {"hit rate": percent(metrics["hit_rate"]), "load": metrics["saturation"]["verdict"]}
    facts |= {column.name: _with_unit(column, metrics) for column in rates([metrics])}
    facts["preemptions"] = count(metrics["preemptions"])
    shown = "   ".join(f"{name} {value}" for name, value in facts.items())
    return Group(table, Text(shown))


def _with_unit(column: Column, metrics: dict[str, Any]) -> str:
    return f"{column.marked(metrics)} {column.unit}".strip()


def _slo(summaries: Sequence[dict[str, Any]]) -> list[Text]:
    found = [metrics["slo_met"] for metrics in summaries if metrics["slo_met"] is not None]
    if not found:
        return []
    if len(found) == 1:
        return [Text("✓ SLO met" if found[0] else "✗ SLO missed")]
    mark = "✓" if all(found) else "✗"
    return [Text(f"{mark} SLO met in {sum(found)} of {len(found)} cells")]
