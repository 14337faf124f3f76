"""The top of the page: what was run, the answer, the table of cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..answer import answer, warnings
from ..columns import Column, columns
from ..metrics.goals import SLO_TARGET, gpus
from ..text import MISSING, percent, time
from .context import Context
from .html import Html, Td, cell_name, details, join, section, table, tag

_NO_CHARTS = "Charts need JavaScript; what they show is in the tables as well."
_SLO_ROWS = 6  # a longer table is folded
_PARTS = {
    "answer": "Answer",
    "hits": "Hit rate",
    "misses": "Why prompts missed",
    "latency": "Latency",
    "time": "Over time",
    "load": "Preemptions and saturation",
    "requests": "Requests",
    "capacity": "KV capacity",
    "caveats": "Caveats",
    "definitions": "Definitions",
    "scenario": "Scenario",
}


def header(page: Context, anchors: Iterable[str]) -> Html:
    """Name, models, GPUs, seed, version, the command, and links to the parts at *anchors*."""
    facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(page) if value]
    command = tag(
        "div",
        tag("code", page.command),
        tag("button", "copy", type="button", class_="copy", hidden="hidden"),
        class_="command",
    )
    links = [tag("li", tag("a", _PARTS[anchor], href=f"#{anchor}")) for anchor in anchors]
    return tag(
        "header",
        tag("p", "infersim report", class_="kicker"),
        tag("h1", page.run_name),
        tag("dl", *facts, class_="facts"),
        command if page.command else "",
        Html(f"<noscript>{tag('p', _NO_CHARTS, class_='banner')}</noscript>"),
        tag("nav", tag("ul", *links, class_="toc"), aria_label="parts of the report"),
        class_="top",
    )


def _facts(page: Context) -> list[tuple[str, str]]:
    arrived = sum(metrics["requests"]["arrived"] for metrics in page.summaries)
    return [
        ("model", _listed(page, "model")),
        ("GPUs", _gpus(page)),
        ("cells", f"{len(page.cells)}"),
        ("requests", f"{arrived:,}"),
        ("seed", str(page.provenance.get("seed", ""))),
        ("version", _version(page.provenance)),
        (
            "step times",
            ", ".join(dict.fromkeys(c.cost_source for c in page.cells if c.cost_source)),
        ),
    ]


def _version(provenance: dict[str, Any]) -> str:
    commit = str(provenance.get("git_commit") or "")
    return str(provenance.get("version", "")) + (f" ({commit[:12]})" if commit else "")


def _listed(page: Context, key: str) -> str:
    found = (str(pool[key]) for cell in page.cells for pool in cell.capacity if pool.get(key))
    return ", ".join(dict.fromkeys(found))


def _gpus(page: Context) -> str:
    counts = sorted({gpus(cell) for cell in page.cells})
    if not counts or counts == [0]:
        return ""
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"{many} × {_listed(page, 'gpu')}"


def answer_section(page: Context) -> Html:
    """The answer in words, warnings, and the cells side by side."""
    shown = columns(page.summaries)
    body = _cards(page, shown) if page.single else _cells(page, shown)
    banners = [tag("p", text, class_="banner") for text in warnings(page.cells, page.summaries)]
    return tag(
        "section",
        tag("p", answer(page.cells, page.summaries), class_="lead"),
        *banners,
        body,
        _slo(page),
        id="answer",
        class_="answer",
    )


def _cards(page: Context, shown: list[Column]) -> Html:
    metrics = page.summaries[0]
    cards = [(column.title, column.marked(metrics)) for column in shown]
    cards.append(("load", metrics["saturation"]["verdict"]))
    return tag("dl", *(tag("div", tag("dt", t), tag("dd", v)) for t, v in cards), class_="cards")


def _cells(page: Context, shown: list[Column]) -> Html:
    bounds = {i for i, cell in enumerate(page.cells) if cell.oracle}
    best = [column.best(page.summaries, bounds) for column in shown]
    rows = []
    for i, metrics in enumerate(page.summaries):
        cells = [_value(page, column, i, i in b) for column, b in zip(shown, best, strict=True)]
        rows.append([_row_name(page, i, i in bounds), _finished(metrics), *cells, _load(metrics)])
    heads = ["cell", "finished", *(column.title for column in shown), "load"]
    caption = "★ best of its column · small: difference to the first cell · * too few samples"
    return table(heads, rows, caption=caption, focus=page.ranking.best)


def _row_name(page: Context, i: int, bound: bool) -> Html:
    star = "★ " if i == page.ranking.best else ""
    note = tag("span", "bound: sees the future", class_="delta") if bound else ""
    return join([cell_name(f"{star}{page.names[i]}"), note])


def _finished(metrics: dict[str, Any]) -> Td:
    requests = metrics["requests"]
    lost = requests["failed"] + requests["shed"]
    note = tag("span", f"of {requests['arrived']:,}", class_="delta") if lost else ""
    return Td(join([f"{requests['finished']:,}", note]))


def _load(metrics: dict[str, Any]) -> Td:
    return Td(metrics["saturation"]["verdict"], "text")


def _value(page: Context, column: Column, i: int, best: bool) -> Td:
    metrics = page.summaries[i]
    value, first = column.get(metrics), column.get(page.summaries[0])
    shown = ("★ " if best else "") + column.marked(metrics)
    delta = "" if i == 0 or column.delta is None else column.delta(value, first)
    note = tag("span", delta, class_=f"delta {_sense(column, delta)}".strip()) if delta else ""
    return Td(join([shown, note]), "best" if best else "")


def _sense(column: Column, delta: str) -> str:
    if delta == "=":
        return ""
    return "better" if delta.startswith("−") == column.lower_is_better else "worse"


def _slo(page: Context) -> Html:
    """✓ or ✗ by limit and cell; nothing without limits."""
    limits = {metric: s for cell in page.cells for metric, s in cell.slo.items()}
    if not limits:
        return Html("")
    names = {metric: metric.removesuffix("_s").upper() for metric in limits}
    rows = [
        [
            page.names[i] if not page.single else "all requests",
            *(_limit(metrics["slo"].get(metric)) for metric in limits),
            "✓ met" if metrics["slo_met"] else "✗ missed",
        ]
        for i, metrics in enumerate(page.summaries)
    ]
    caption = (
        f"Service-level objective: each limit is met when {SLO_TARGET * 100:.0f} % of the arrived "
        "requests keep within it; failed and shed requests miss it"
    )
    shown = table(["cell", *names.values(), "SLO"], rows, caption=caption, wide=False)
    met = sum(bool(metrics["slo_met"]) for metrics in page.summaries)
    return (
        shown
        if len(rows) <= _SLO_ROWS
        else details(f"SLO met in {met} of {len(rows)} cells", shown)
    )


def _limit(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return MISSING
    mark = "✓" if entry["met"] else "✗"
    return f"{mark} {percent(entry['attainment'])} ≤ {time(entry['limit_s'])}"


def contents(parts: dict[str, Html]) -> Html:
    """The parts below the answer, in the order of the page."""
    return join(section(anchor, _PARTS[anchor], body) for anchor, body in parts.items())
