"""The page of a profile: how good it is, then every operation. One file, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from ..page.html import Html, Plots, Td, join, pair, section, table, tag
from ..page.shell import document, masthead
from ..text import percent
from . import figures
from .rows import HEADS, row

Data = dict[str, Any]
_WIDE_LOSS = 0.05  # left-out error above which an operation is named at the top
_DEFINITIONS = {
    "grades": "of a table's points. measured: its very place was timed; interpolated: between "
    "such; extrapolated: beyond them; transferred: from another shape or device; datasheet: no "
    "measurement at all.",
    "sigma": "how far all points of the table may be off together: the anchors' drift, the "
    "uncertainty of a typical point, and what uneven batches take beyond the table.",
    "noisy": "points whose samples scatter by more than 5 % (standard deviation over median); "
    "hollow in the charts.",
    "left out": "error of a point foretold by a fit that has not seen it, in up to ten folds.",
    "uneven": "measured over foretold of batches whose lengths differ much, median.",
    "bars in the charts": "95 % interval of the median, by order statistics.",
}


def write_page(path: Path, data: Data, command: str) -> None:
    """Write the page to *path*.

    Args:
        data: as `calibrate.checking.Checked.page_data` makes it.
        command: how to make it again.

    Raises:
        OSError: the file could not be written; then there is none (or still the former one).
    """
    write_text(path, page(data, command))


def page(data: Data, command: str) -> str:
    """The HTML; arguments as in `write_page`."""
    plots = Plots()
    parts = {
        "Tables": _tables(data, plots),
        "Errors": _errors(data, plots),
        "Operations": _operations(data["operations"], plots),
        "Notes": _notes(data["notes"]),
        "Definitions": _definitions(),
    }
    shown = {title: body for title, body in parts.items() if body}
    main = [_answer(data), *(section(t.lower(), t, body) for t, body in shown.items())]
    return document(data["name"], _header(data, shown, command), main, plots)


def _header(data: Data, parts: dict[str, Html], command: str) -> Html:
    anchors = {title: title.lower() for title in parts}
    return masthead("infersim profile", data["name"], data["facts"], anchors, command)


def _answer(data: Data) -> Html:
    banners = [tag("p", text, class_="banner") for text in data["warnings"]]
    lead = tag("p", answer(data), class_="lead")
    return tag("section", lead, *banners, id="answer", class_="answer")


def answer(data: Data) -> str:
    """How good the profile is, in a sentence or two."""
    rows = data["tables"]
    known = [r for r in rows if r["left_out_p50"] is not None]
    if not known:
        return f"{len(rows)} tables without raw samples: how good they are, their source says."
    weak = [r["op"] for r in known if r["left_out_p50"] > _WIDE_LOSS]
    text = f"{len(rows)} tables of {sum(r['measured'] for r in known):,} measured points. "
    if weak:
        text += f"Foretold badly where not measured (above 5 % in the median): {', '.join(weak)}. "
    else:
        worst = max(known, key=lambda r: (r["left_out_p50"], r["op"]))
        text += (
            f"A point left out is foretold within {percent(worst['left_out_p50'])} in the median "
            f"by the worst of them, {worst['op']}. "
        )
    steps = data["facts"].get("whole steps")
    return text + (f"Whole steps: {steps}." if steps else "No whole steps were measured.")


def _tables(data: Data, plots: Plots) -> Html:
    rows = [_cells(one) for one in data["tables"]]
    shown = table(HEADS, rows, caption="tables by operation; seconds are of one launch")
    return join([shown, plots.add("coverage", figures.coverage(data["tables"]))])


def _cells(one: Data) -> list[object]:
    cells = list(row(one))
    cells[3] = Td(cells[3], "text")
    return cells


def _errors(data: Data, plots: Plots) -> Html:
    operations = data["operations"]
    left = plots.add("residuals", figures.residuals(operations))
    steps = plots.add("steps", figures.steps(data["steps"]))
    roof = plots.add("roofline", figures.roofline(operations, data["peaks"]))
    return join([pair(left, steps), roof]) if left or steps or roof else join([])


def _operations(operations: Sequence[Data], plots: Plots) -> Html:
    made = [plots.add(f"op-{n}", figures.operation(one)) for n, one in enumerate(operations)]
    return pair(*made)


def _notes(notes: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", text) for text in notes)) if notes else Html("")


def _definitions() -> Html:
    rows = [tag("div", tag("dt", name), tag("dd", text)) for name, text in _DEFINITIONS.items()]
    return tag("dl", *rows, class_="definitions")
