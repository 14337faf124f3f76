"""The HTML file around the parts of any page: style, charts, script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ..files import asset
from .html import Html, Plots, esc, tag

#: The browser itself sees to it that the page loads nothing, whatever text is in it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_NO_SCRIPT = (
    "<noscript><style>.plot,.legend,.pick{display:none}.which{display:block}[data-cell][hidden]{display:block}"
    "figure h3{font-weight:400}</style></noscript>"
)


def document(title: str, header: Html, main: Iterable[Html], plots: Plots) -> str:
    """A whole page: *header*, the parts of *main*, and the figures that they made room for."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{esc(title)} · infersim</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{asset('report.css')}</style>{_NO_SCRIPT}</head><body>",
            header,
            "<main>",
            *main,
            "</main>",
            "<footer>Made by infersim. Charts: plotly.js, © Plotly, Inc., MIT licence.</footer>",
            f'<script type="application/json" id="figures">{_figures(plots)}</script>',
            f"<script>{asset('plotly-cartesian.min.js')}</script>",
            f"<script>{asset('report.js')}</script>",
            "</body></html>\n",
        ]
    )


def masthead(
    kicker: str,
    title: str,
    facts: Mapping[str, str],
    anchors: Mapping[str, str],
    command: str,
    parts: str = "parts of the page",
) -> Html:
    """What a page begins with.

    Args:
        facts: name -> text · anchors: title of a part -> its id.
        command: what makes the page again.
        parts: what the list of them is to a screen reader.
    """
    shown = [tag("div", tag("dt", name), tag("dd", text)) for name, text in facts.items()]
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for name, anchor in anchors.items()]
    copy = tag("button", "copy", type="button", class_="copy", hidden="hidden")
    return tag(
        "header",
        tag("p", kicker, class_="kicker"),
        tag("h1", title),
        tag("dl", *shown, class_="facts"),
        tag("div", tag("code", command), copy, class_="command"),
        tag("nav", tag("ul", *links, class_="toc"), aria_label=parts),
        class_="top",
    )


def _figures(plots: Plots) -> Html:
    """The figures as JSON that no text in it can break out of."""
    found = {name: {"data": f.data, "layout": f.layout} for name, f in plots.figures.items()}
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Html(text.replace("<", "\\u003c"))
