"""The page of a validation: the answer first, then what it rests on. One file, offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from ..page.html import Html, Plots, Td, details, join, pair, section, table, tag
from ..page.shell import document, masthead
from ..text import MISSING, count, plural
from . import figures
from .terminal import capacity
from .words import (
    SERIES,
    answer,
    correlation,
    decisions,
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

Data = dict[str, Any]
_CARDS = (
    ("tpot_s", "mean"),
    ("ttft_s", "mean"),
    ("e2e_s", "mean"),
    ("output_tokens_per_s", "value"),
)
_CHANGES = (
    ("step time ±1 %", ("step time +1 %", "step time −1 %")),
    ("KV blocks ±5 %", ("KV blocks +5 %", "KV blocks −5 %")),
)
_DEFINITIONS = {
    "error": "(simulated − measured) / measured, signed: −3 % is a simulation 3 % below. Of shares "
    "such as the hit rate: the difference in points.",
    "repeats": "half the range of the measured runs, where several were given: an error within it "
    "says nothing about the simulator.",
    "step time ±1 %, KV blocks ±5 %": "how the simulated figure moves when every step takes 1 % "
    "longer / shorter, or every replica has 5 % more / fewer KV blocks: re-simulated. TTFT is a "
    "queueing quantity: near saturation it moves by several times the step-time error.",
    "of mean E2E": "the error of the mean TTFT over the measured mean E2E, which queueing does not "
    "inflate.",
    "TTFT, TPOT, E2E": "first token − arrival; (last − first token) / (tokens − 1), single tokens "
    "left out; last token − arrival. Percentiles by linear interpolation.",
    "correlation": "Pearson's, at the measured samples. The waiting line correlates even where "
    "latencies are far off, so it is shown and never judged.",
    "step time error": "of each step, relative to its measured time: median and 95th percentile of "
    "its size, and its mean (bias). Steps after the first difference are priced by the cost model. "
    "repeats: the median difference between equal steps of two measured runs.",
    "Kendall τ": "τ-b over all pairs of cells: 1 same order, 0 none, −1 reversed.",
    "*": "too few samples for a two-sided 95 % order-statistic interval.",
}


def write_page(path: Path, data: Data, command: str, version: str) -> None:
    """Write the page to *path*.

    Args:
        data: as `calibrate.compare.validate` makes it, with ``scenario``.
        command: how to make it again.

    Raises:
        OSError: the file could not be written; then there is none (or still the former one).
    """
    write_text(path, page(data, command, version))


def page(data: Data, command: str, version: str) -> str:
    """The HTML; arguments as in `write_page`."""
    plots = Plots()
    cells = data["cells"]
    parts = {
        "Ranking of the cells": _ranking(data, plots),
        "Figure by figure": _per_cell(cells, lambda cell, n: _rows(cell, n, plots)),
        "Request by request": _per_cell(cells, lambda cell, n: _requests(cell, n, plots)),
        "Over time": _per_cell(cells, lambda cell, n: _series(cell, n, plots)),
        "Step by step": _per_cell(cells, lambda cell, n: _steps(cell, n, plots)),
        "What it rests on": _per_cell(cells, lambda cell, n: _ground(cell)),
        "Definitions": _definitions(),
    }
    shown = {title: body for title, body in parts.items() if body}
    anchors = {title: title.lower().replace(" ", "-") for title in shown}
    main = [_answer(data), *(section(anchors[title], title, body) for title, body in shown.items())]
    title = f"{data['scenario']}: simulated against measured"
    return document(title, _header(data, title, anchors, command, version), main, plots)


def _header(data: Data, title: str, anchors: dict[str, str], command: str, version: str) -> Html:
    cells = data["cells"]
    runs = [run for cell in cells for run in cell["measured"]]
    facts = {
        "measured": ", ".join(dict.fromkeys(run["name"] for run in runs)),
        "kind": ", ".join(dict.fromkeys(run["format"] for run in runs)),
        "clock": ", ".join(dict.fromkeys(run["clock"] for run in runs)),
        "step times": "; ".join(dict.fromkeys(cell["step_times"] for cell in cells)),
        "version": version,
    }
    label = "parts of the report"
    return masthead("infersim validation", title, facts, anchors, command, label)


def _answer(data: Data) -> Html:
    cells = data["cells"]
    warnings = list(dict.fromkeys(text for c in cells for text in c["caveats"]["warnings"]))
    body = _cards(cells[0]) if len(cells) == 1 else _grid(cells)
    checks = [tag("li", limit(row)) for row in data["checks"]]
    return tag(
        "section",
        tag("p", answer(data), class_="lead"),
        tag("ul", *checks) if checks else "",
        *(tag("p", text, class_="banner") for text in warnings),
        body,
        id="answer",
        class_="answer",
    )


def _cards(cell: Data) -> Html:
    off = cell["capacity"]["error"]
    cards = [("KV capacity", "equal" if off == 0 else signed(off))]
    for metric, stat in _CARDS:
        row = find(cell, metric, stat)
        if row is not None:
            cards.append((label(row), error(row)))
    cards += [
        (f"{SERIES[name]} over time", f"r {correlation(one['correlation'])}")
        for name, one in cell["series"].items()
        if one["gated"]
    ]
    if cell["steps"] is not None:
        same = cell["steps"]["first_difference"] is None
        cards.append(("decisions", "identical" if same else "differ"))
    return tag("dl", *(tag("div", tag("dt", t), tag("dd", v)) for t, v in cards), class_="cards")


def _grid(cells: Sequence[Data]) -> Html:
    wanted = (*_CARDS, ("hit_rate", "value"))
    found = [[find(cell, *key) for key in wanted] for cell in cells]
    names = [
        [label(row) for row in column if row is not None] for column in zip(*found, strict=True)
    ]
    kept = [i for i, known in enumerate(names) if known]
    heads = [names[i][0] for i in kept]
    rows = []
    for cell, mine in zip(cells, found, strict=True):
        errors = [MISSING if (row := mine[i]) is None else error(row) for i in kept]
        rows.append([cell["name"], signed(cell["capacity"]["error"]), *errors])
    return table(["cell", "KV capacity", *heads], rows, caption="Error of every cell", wide=False)


def _per_cell(cells: Sequence[Data], make: Callable[[Data, int], Html]) -> Html:
    """*make* of every cell, one shown at a time."""
    made = [(n, cell["name"], make(cell, n)) for n, cell in enumerate(cells)]
    if not any(body for _, _, body in made):
        return Html("")
    if len(made) == 1:
        return made[0][2]
    options = [tag("option", name, value=n) for n, name, _ in made]
    picker = tag("select", *options, class_="cell", autocomplete="off")
    panels = [
        tag(
            "div",
            tag("p", name, class_="which"),
            body or tag("p", "Nothing to compare here in this cell."),
            data_cell=n,
            hidden="hidden" if n else None,
        )
        for n, name, body in made
    ]
    return join([tag("p", tag("label", "cell: ", picker), class_="pick"), *panels])


def _rows(cell: Data, n: int, plots: Plots) -> Html:
    rows = cell["rows"]
    if not rows:
        return Html("")
    repeats = any(row["noise"] is not None for row in rows)
    changes = [pair for pair in _CHANGES if any(row["changes"] for row in rows)]
    heads = ["figure", "error", "measured", "simulated"]
    heads += ["repeats"] * repeats + [f"{name}, moves it by" for name, _ in changes]
    body = []
    for row in rows:
        more = [noise(row)] if repeats else []
        more += [swing(row, names) for _, names in changes]
        body.append([label(row), Td(error(row), "best"), *values(row), *more])
    shown = table(heads, body, caption="simulated beside measured · * too few samples", wide=False)
    return join([plots.add(f"errors-{n}", figures.errors(rows)), shown])


def _requests(cell: Data, n: int, plots: Plots) -> Html:
    samples = cell["samples"]
    if not samples:
        return Html("")
    parts = []
    for metric in ("ttft_s", "tpot_s", "e2e_s"):
        curve = plots.add(f"ecdf-{metric}-{n}", figures.ecdf(metric, samples[metric], cell["rows"]))
        drawn = figures.scatter(metric, samples[metric]) if cell["paired"] else None
        parts.append(pair(curve, plots.add(f"scatter-{metric}-{n}", drawn)))
    return join(parts)


def _series(cell: Data, n: int, plots: Plots) -> Html:
    return plots.add(f"series-{n}", figures.over_time(cell["series"]))


def _steps(cell: Data, n: int, plots: Plots) -> Html:
    steps = cell["steps"]
    if steps is None:
        return Html("")
    parts: list[Html] = [tag("p", decisions(steps))]
    first = steps["first_difference"]
    if first is not None:
        rows = [list(row) for row in differing(first)]
        caption = (
            f"Step {count(first['step'])} of replica {first['replica']}, at {first['at_s']:.3f} s: "
            "what was decided differently"
        )
        parts.append(table(["", "measured", "simulated"], rows, caption=caption, wide=False))
    repeats = any(row["noise"] is not None for row in steps["times"])
    rows = [
        [
            row["kind"],
            count(row["n"]),
            signed(row["median"], sign=False),
            signed(row["p95"], sign=False),
            signed(row["bias"]),
            *([_apart(row["noise"])] if repeats else []),
        ]
        for row in steps["times"]
    ]
    left_out = steps["left_out"]
    caption = "Error of a step's time by kind" + (
        f"; {plural(left_out, 'step')} could not be priced and {'is' if left_out == 1 else 'are'} "
        "left out"
        if left_out
        else ""
    )
    heads = ["steps", "n", "median error", "p95", "bias", *(["repeats"] if repeats else [])]
    parts.append(table(heads, rows, caption=caption, wide=False))
    return join([*parts, plots.add(f"steps-{n}", figures.residuals(steps))])


def _apart(noise: float | None) -> str:
    return MISSING if noise is None else signed(noise, sign=False)


def _ranking(data: Data, plots: Plots) -> Html:
    if not data["ranking"]:
        return Html("")
    rows = [
        [
            label(row),
            correlation(row["tau"]),
            *(Td(_order(row[side]), "prose") for side in ("measured", "simulated")),
        ]
        for row in data["ranking"]
    ]
    caption = "Kendall τ-b of the cells' order, the best first"
    shown = table(["figure", "τ", "measured", "simulated"], rows, caption=caption)
    return join([plots.add("ranks", figures.ranks(data["ranking"], data["cells"])), shown])


def _order(places: Sequence[Sequence[str]]) -> str:
    """Cells by place: ">" is better than, "=" is tied with."""
    return " > ".join(" = ".join(names) for names in places)


def _ground(cell: Data) -> Html:
    notes = [tag("li", note) for note in cell["caveats"]["notes"]]
    runs = [
        tag(
            "li", f"{run['name']}: {run['format']}, {_requests_of(run)}, the {run['clock']}'s clock"
        )
        for run in cell["measured"]
    ]
    settings = [
        [row["key"], str(row["measured"]), str(row["simulated"])] for row in cell["settings"]
    ]
    differing_ones = (
        table(
            ["setting", "measured", "scenario"],
            settings,
            caption="Settings that differ",
            wide=False,
        )
        if settings
        else ""
    )
    return join([tag("ul", tag("li", capacity(cell)), *runs, *notes), differing_ones])


def _requests_of(run: Data) -> str:
    if run["requests"] is None:
        return "aggregates only"
    without = f", {count(run['unfinished'])} without an answer" if run["unfinished"] else ""
    return plural(run["requests"], "request") + without


def _definitions() -> Html:
    rows = [tag("div", tag("dt", name), tag("dd", text)) for name, text in _DEFINITIONS.items()]
    return details("What the words mean", tag("dl", *rows, class_="definitions"))
