"""Hits and misses on the page."""

from __future__ import annotations

from typing import Any

from .. import figures
from ..metrics.hits import MISS_REASONS
from ..text import MISSING, count, percent, time
from .context import Context
from .html import Html, details, join, pair, table, tag


def hits(page: Context) -> Html:
    """Hit rate by cell, by turn and by capacity."""
    add = page.plots.add
    overall = None if page.single else figures.hit_rate(page.names, page.summaries)
    swept = figures.hit_rate_by_capacity(page.cells, page.summaries)
    over = [_by_turn(page), add("hit-rate-by-capacity", swept)]
    return join([pair(add("hit-rate", overall), join(over)), _table(page)])


def _by_turn(page: Context) -> Html:
    figure = figures.hit_rate_by_turn(page.lines, page.summaries, page.focus)
    if figure is None:
        return tag("p", "No session has a second turn, so there is no hit rate by turn.")
    shown = page.plots.add("hit-rate-by-turn", figure)
    return join([shown, details("as a table", _turn_table(page))])


def _turn_table(page: Context) -> Html:
    turns: dict[int, str] = {}
    for metrics in page.summaries:
        for row in metrics["hit_rate_by_turn"]:
            last = row["to_turn"]
            turns[row["turn"]] = (
                f"{row['turn']}" if last == row["turn"] else f"{row['turn']}–{last}"
            )
    order = sorted(turns)
    rows = []
    for name, metrics in zip(page.names, page.summaries, strict=True):
        by_turn = {row["turn"]: row["hit_rate"] for row in metrics["hit_rate_by_turn"]}
        rows.append([name, *(percent(by_turn.get(turn)) for turn in order)])
    return table(
        ["cell", *(turns[turn] for turn in order)], rows, caption="hit rate by turn of the session"
    )


def _table(page: Context) -> Html:
    remote = any(metrics["remote_tokens"] for metrics in page.summaries)
    heads = ["cell", "hit rate", "hit tokens", "prompt tokens", "KV blocks", "evicted blocks"]
    rows = [
        [
            name,
            percent(m["hit_rate"]),
            count(m["hit_tokens"]),
            count(m["prompt_tokens"]),
            count(m["kv_blocks"]),
            count(m["evicted_blocks"]),
            *([count(m["remote_tokens"])] if remote else []),
        ]
        for name, m in zip(page.names, page.summaries, strict=True)
    ]
    heads += ["tokens whose KV came over a link"] if remote else []
    shown = table(heads, rows, caption="prefix cache by cell")
    return shown if page.single else details("hits by cell as a table", shown)


def misses(page: Context) -> Html:
    """Why prompt tokens missed and what it cost; empty when nothing did."""
    add = page.plots.add
    tokens = figures.missed_tokens(page.names, page.summaries, page.focus)
    if tokens is None:
        return tag("p", "No prompt token missed the cache.")
    cost = figures.missed_seconds(page.names, page.summaries, page.focus)
    charts = pair(add("missed-tokens", tokens), add("missed-seconds", cost))
    diverged = figures.diverged_by_segment(page.names, page.summaries, page.focus)
    return join([charts, _reasons(page), add("diverged", diverged), _segments(page)])


def _reasons(page: Context) -> Html:
    heads = ["cell", *(words for words in MISS_REASONS.values()), "all"]
    rows = []
    for name, metrics in zip(page.names, page.summaries, strict=True):
        missed = [metrics["missed"][reason] for reason in MISS_REASONS]
        total = {key: sum(row[key] for row in missed) for key in ("tokens", "s")}
        rows.append([name, *(_both(row) for row in (*missed, total))])
    caption = "prompt tokens that missed, and the time that computing them cost by the cost model"
    return table(heads, rows, caption=caption, focus=None if page.single else page.focus)


def _both(row: dict[str, Any]) -> Html:
    if not row["tokens"]:
        return Html(MISSING)
    return join([count(row["tokens"]), tag("span", time(row["s"]), class_="delta")])


def _segments(page: Context) -> Html:
    """Where the first miss lies, for the cell in focus and, folded, for the others."""
    order = [page.focus, *(i for i in range(len(page.cells)) if i != page.focus)]
    tables = [_segment_table(page, i) for i in order]
    if len(tables) == 1:
        return tables[0]
    return join([tables[0], details("the other cells", *tables[1:])])


def _segment_table(page: Context, cell: int) -> Html:
    where = "" if page.single else f", {page.names[cell]}"
    heads = ["segment", "requests", *MISS_REASONS.values()]
    rows = [
        [row["segment"], count(row["requests"]), *(_segment_cell(row, r) for r in MISS_REASONS)]
        for row in page.summaries[cell]["missed_by_segment"]
    ]
    return table(heads, rows, caption=f"missed tokens by the segment of the first miss{where}")


def _segment_cell(row: dict[str, Any], reason: str) -> Html:
    return _both({"tokens": row[f"{reason}_tokens"], "s": row[f"{reason}_s"]})
