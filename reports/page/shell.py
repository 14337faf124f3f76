"""The HTML file around the parts of any page: style, charts, script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..files import asset
from .html import Html, Plots, esc

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


def _figures(plots: Plots) -> Html:
    """The figures as JSON that no text in it can break out of."""
    found = {name: {"data": f.data, "layout": f.layout} for name, f in plots.figures.items()}
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Html(text.replace("<", "\\u003c"))
