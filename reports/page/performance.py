"""Latency, time series, preemptions and saturation on the page."""

from __future__ import annotations

from typing import Any

from .. import figures
from ..columns import LATENCIES, STATS
from ..text import MISSING, count, number, percent, size, time, time_unit
from .context import Context
from .html import Html, Td, details, join, legend, pair, table, tag

_MEANINGS = {
    "ttft_s": "first token − arrival",
    "tpot_s": "(last − first token) / (tokens − 1), by request",
    "itl_s": "every gap between two tokens, pooled",
    "e2e_s": "last token − arrival",
    "queue_s": "first scheduling − arrival",
}


def latency(page: Context) -> Html:
    """Where the mean request's time went, the distributions, and their tables."""
    add = page.plots.add
    values = figures.samples(page.cells)
    slo = {metric: s for cell in page.cells for metric, s in cell.slo.items()}
    split = figures.time_split(page.names, page.summaries, page.focus)
    curves = [
        tag("div", add(metric, figures.ecdf(metric, page.lines, values, slo, page.focus)))
        for metric in ("ttft_s", "tpot_s", "e2e_s")
    ]
    charts = [
        add("time-split", split),
        legend(figures.legend(page.lines)),
        tag("div", *curves, class_="trio"),
    ]
    if page.single:
        return join([*charts, _one_table(page)])
    tables = [
        details(f"{LATENCIES[metric]}: {meaning}", _table(page, metric))
        for metric, meaning in _MEANINGS.items()
    ]
    return join([*charts, *tables])


def _one_table(page: Context) -> Html:
    metrics = page.summaries[0]
    rows = []
    for metric, meaning in _MEANINGS.items():
        unit, values = _stats(metrics, metric, metrics[metric]["max"])
        rows.append([f"{LATENCIES[metric]}, {unit}: {meaning}", *values])
    return table(["metric", *STATS, "n"], rows, caption="latencies; * too few samples")


def _table(page: Context, metric: str) -> Html:
    longest_s = max((m[metric]["max"] or 0.0 for m in page.summaries), default=0.0)
    unit = time_unit(longest_s)[0]
    rows = [
        [name, *_stats(metrics, metric, longest_s)[1]]
        for name, metrics in zip(page.names, page.summaries, strict=True)
    ]
    caption = f"{LATENCIES[metric]}, {unit}; * too few samples for a 95 % interval"
    return table(["cell", *STATS, "n"], rows, caption=caption)


def _stats(metrics: dict[str, Any], metric: str, longest_s: float | None) -> tuple[str, list[str]]:
    """The unit for *longest_s*, and every statistic and n in it."""
    unit, scale = time_unit(longest_s or 0.0)
    found = metrics[metric]
    values = []
    for stat in STATS:
        weak = "*" if stat in found["unsupported"] and found["n"] else ""
        values.append(number(None if found[stat] is None else found[stat] * scale) + weak)
    return unit, [*values, count(found["n"])]


def over_time(page: Context) -> Html:
    """The time series of the chosen cell."""
    found = [figures.over_time(cell, page.bins) for cell in page.cells]
    if not any(found):
        return Html("")
    panels = [
        page.per_cell(i, page.plots.add(f"series-{i}", figure) or "nothing was sampled")
        for i, figure in enumerate(found)
    ]
    return join([page.picker(), *panels])


def load(page: Context) -> Html:
    """Preemptions, and how close to saturation each cell ran."""
    add = page.plots.add
    preempted = figures.preemptions(page.names, page.summaries, page.focus)
    none = tag("p", "No request was preempted" + (" in any cell." if not page.single else "."))
    busy = figures.busy(page.names, page.summaries, page.focus)
    charts = pair(add("busy", busy), add("preemptions", preempted) if preempted else none)
    tables = (_saturation, _preemptions, _moved, _structured, _lost)
    return join([charts, *(made(page) for made in tables)])


def _saturation(page: Context) -> Html:
    heads = ["cell", "verdict", "arrivals/s", "completions/s", "mean waiting", "queue slope, 1/s"]
    heads += ["busiest / mean replica", "evidence"]
    rows = []
    for name, metrics in zip(page.names, page.summaries, strict=True):
        found = metrics["saturation"]
        rows.append(
            [
                name,
                Td(found["verdict"], "text"),
                number(found["arrivals_per_s"]),
                number(found["completions_per_s"]),
                number(found["waiting_mean"]),
                number(found["queue_slope_per_s"]),
                number(metrics["requests_max_over_mean"]),
                Td(found["why"], "prose"),
            ]
        )
    return table(heads, rows, caption="saturation, judged over the second half of the arrivals")


def _preemptions(page: Context) -> Html:
    if not any(metrics["preemptions"] for metrics in page.summaries):
        return Html("")
    heads = ["cell", "preemptions", "requests preempted", "tokens computed again", "busy"]
    rows: list[list[object]] = [
        [
            name,
            count(m["preemptions"]),
            count(m["preempted_requests"]),
            count(m["recomputed_tokens"]),
            percent(m["busy_share"]),
        ]
        for name, m in zip(page.names, page.summaries, strict=True)
    ]
    if any(m["swap"] for m in page.summaries):
        heads += ["swapped out", "KV copied, both ways", "by which steps were delayed", "no room"]
        for row, m in zip(rows, page.summaries, strict=True):
            row += _swap(m["swap"])
    return details("preemptions as a table", table(heads, rows, caption="preemptions by cell"))


def _swap(found: dict[str, Any] | None) -> list[object]:
    if found is None:
        return [MISSING] * 4
    copied = size(found["out_bytes"] + found["in_bytes"])
    return [count(found["out"]), copied, time(found["copying_s"]), count(found["refused"])]


def _moved(page: Context) -> Html:
    """KV that travelled between replicas or from a tier; empty where none did."""
    found = [(name, m, m["transfer"]) for name, m in zip(page.names, page.summaries, strict=True)]
    if not any(moved["requests"] for _, _, moved in found):
        return Html("")
    heads = ["cell", "requests", "KV moved", "mean wait for it", "link busy", "failed transfers"]
    rows: list[list[object]] = [
        [
            name,
            count(moved["requests"]),
            size(moved["bytes"]),
            time(moved["mean_s"]),
            percent(moved["link_busy_share"]),
            count(moved["failed"]),
        ]
        for name, _, moved in found
    ]
    if any(m["role_switches"] for _, m, _ in found):
        heads.append("role switches")
        for row, (_, m, _) in zip(rows, found, strict=True):
            row.append(count(m["role_switches"]))
    return table(heads, rows, caption="KV that travelled to where it was needed, by cell")


def _structured(page: Context) -> Html:
    """Requests whose answers follow a grammar; empty where there are none."""
    found = [
        (name, m.get("structured")) for name, m in zip(page.names, page.summaries, strict=True)
    ]
    if not any(one for _, one in found):
        return Html("")
    heads = ["cell", "requests", "share", "waited for a compile", "p99 of all waits", "compiled"]
    rows: list[list[object]] = []
    for name, one in found:
        if one is None:
            rows.append([name, count(0), percent(0.0), *[MISSING] * 3])
            continue
        rows.append(
            [
                name,
                count(one["requests"]),
                percent(one["share"]),
                count(one["waited"]),
                time(one["grammar_s"]["p99"]),
                count(one["compiled_grammars"]),
            ]
        )
    return table(heads, rows, caption="answers that follow a grammar, by cell")


def _lost(page: Context) -> Html:
    """Requests that did not finish, with the reason of each."""
    rows: list[list[object]] = []
    for name, metrics in zip(page.names, page.summaries, strict=True):
        for status in ("failed", "shed"):
            for reason, n in metrics[f"{status}_reasons"].items():
                rows.append([name, Td(status, "text"), Td(reason or MISSING, "prose"), count(n)])
    if not rows:
        return Html("")
    shown = table(
        ["cell", "status", "reason", "requests"], rows, caption="requests that did not finish"
    )
    return shown if len(rows) <= 6 else details("requests that did not finish, and why", shown)
