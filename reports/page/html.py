"""Pieces of HTML. Everything that is not already `Html` is escaped on its way in."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..figures import Figure, Key

_UNBROKEN = 20  # characters of a part of a name that are kept on one line


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def esc(text: object) -> Html:
    """*text*, escaped unless it is `Html`."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def join(parts: Iterable[object]) -> Html:
    """The parts one after the other."""
    return Html("".join(esc(part) for part in parts))


def tag(name: str, *parts: object, **attributes: object) -> Html:
    """``<name …>parts</name>``; class_ is class, underscores are dashes, None is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{shown}>{join(parts)}</{name}>")


class Td(NamedTuple):
    """A table cell with a class ("best", "text", "prose")."""

    content: object
    class_: str = ""


def cell_name(name: object) -> Html:
    """The name of a cell, which breaks between its parts only."""
    if isinstance(name, Html):
        return name
    *parts, last = str(name).split(" · ")
    shown = [f"{part} ·" for part in parts] + [last]
    return Html(" ".join(tag("span", part, class_=_part_class(part)) for part in shown))


def _part_class(part: str) -> str:
    return "part" if len(part) <= _UNBROKEN else "long part"


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str,
    focus: int | None = None,
    wide: bool = True,
) -> Html:
    """A table that scrolls inside its own box under its caption; the first column names the row.

    Args:
        rows: one sequence a row; items are text, `Html` or `Td`.
        caption: what it shows, with the units that the heads do not say.
        focus: row to point out.
        wide: as wide as the page, or as narrow as its content.
    """
    classes = [_side(item) for item in rows[0]] if rows else [None] * len(heads)
    titles = zip(heads, classes, strict=True)
    head = tag("tr", *(tag("th", title, scope="col", class_=side) for title, side in titles))
    body = [
        tag(
            "tr",
            tag("th", cell_name(row[0]), scope="row"),
            *(_td(item) for item in row[1:]),
            class_="focus" if i == focus else None,
        )
        for i, row in enumerate(rows)
    ]
    inner = tag("table", tag("thead", head), tag("tbody", *body), class_="wide" if wide else None)
    box = tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)
    return join([tag("p", caption, class_="caption"), box])


def _side(item: object) -> str | None:
    """The class of a heading over *item*: words stand to the left."""
    return "text" if isinstance(item, Td) and item.class_ in ("text", "prose") else None


def _td(item: object) -> Html:
    found = item if isinstance(item, Td) else Td(item)
    return tag("td", found.content, class_=found.class_ or None)


def pair(*sides: object) -> Html:
    """Parts side by side where there is room; one alone takes it all."""
    return tag("div", *(tag("div", side) for side in sides if str(side)), class_="pair")


def details(summary: str, *parts: object) -> Html:
    """A folded part."""
    return tag("details", tag("summary", summary), *parts)


def section(anchor: str, title: str, *parts: object) -> Html:
    """A titled card of the page."""
    return tag("section", tag("h2", title), *parts, id=anchor)


class Plots:
    """The figures of a page, collected while its HTML is made."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}

    def add(self, name: str, figure: Figure | None) -> Html:
        """The place of *figure* on the page, or nothing for None."""
        if figure is None:
            return Html("")
        anchor = f"plot-{name}"
        self.figures[anchor] = figure
        height = figure.layout["height"]
        plot = tag(
            "div",
            class_="plot",
            id=anchor,
            role="img",
            aria_label=figure.alt,
            style=f"height:{height}px",
        )
        return tag("figure", tag("h3", figure.title), legend(figure.legend), plot)


def legend(keys: Sequence[Key]) -> Html:
    """What the colours and dashes of a figure mean; nothing without entries."""
    if not keys:
        return Html("")
    return tag("ul", *(tag("li", _swatch(key), key.label) for key in keys), class_="legend")


_SVG_DASHES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
_SVG_DASHES |= {"longdash": "12 4", "longdashdot": "12 3 2 3"}


def _swatch(key: Key) -> Html:
    if not key.dash:
        box = tag("rect", width=12, height=12, fill=key.color)
        return tag("svg", box, width=12, height=12, aria_hidden="true")
    line = tag(
        "line",
        x1=0,
        x2=30,
        y1=6,
        y2=6,
        stroke=key.color,
        stroke_width=3,
        stroke_dasharray=_SVG_DASHES[key.dash] or None,
    )
    return tag("svg", line, width=30, height=12, aria_hidden="true")
