"""The page of a replay of caches: which router, which eviction, how much. One file, offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cachestudy import LRU, SHARED, Part, Row, parts, verdict
from ..figures.caches import curves, heat_map, size_text
from ..files import write_text
from ..text import count, percent, points
from .html import Html, Plots, Td, details, esc, join, section, table, tag
from .shell import document, masthead

_EVEN = 0.0005  # of the hit rate: what rounding hides
_DEFINITIONS = {
    "hit rate": "prompt tokens whose KV the serving replica held when the request came, over all "
    "prompt tokens. The last token is always computed, as engines do.",
    "KV of a replica": "tokens whose KV it holds. Requests in flight hold theirs, as in an engine: "
    "it cannot be evicted.",
    "infinite cache": "one cache for all replicas that never evicts: no eviction and no router can "
    "do better. The caches of several replicas without a limit hit less where a router scatters.",
    "belady": "evicts what is needed furthest in the future, told for each replica from the "
    "placement that lru leads to: a bound for that placement, which no engine can reach.",
    "effect of the router": "hit rate with the best router minus that with the worst, with "
    "one eviction.",
    "effect of the eviction": "hit rate with the best eviction minus that with the worst, one "
    "router; belady aside.",
}


def write_page(path: Path, rows: Sequence[Row], facts: dict[str, Any], command: str) -> None:
    """Write the page to *path*.

    Args:
        rows: as `scenarios.cache.study.Result.to_dict` makes them.
        facts: as `scenarios.cache.study.Study.facts` makes them.
        command: how to make it again.

    Raises:
        OSError: the file could not be written; then there is none (or still the former one).
    """
    write_text(path, page(rows, facts, command))


def page(rows: Sequence[Row], facts: dict[str, Any], command: str) -> str:
    """The HTML; arguments as in `write_page`."""
    plots, found = Plots(), parts(rows, facts)
    sections = {
        "maps": ("Evictions and routers", join(_map(part, plots) for part in found)),
        "sizes": ("Size of the cache", join(_curve(part, plots) for part in found)),
        "blocks": ("At the trace's own blocks", _own(found)),
        "numbers": ("All figures", _numbers(found)),
        "caveats": ("Caveats", _caveats(found, facts)),
        "definitions": ("Definitions", _definitions()),
    }
    shown = {anchor: one for anchor, one in sections.items() if one[1]}
    main = [_answer(found), *(section(a, title, body) for a, (title, body) in shown.items())]
    anchors = {title: anchor for anchor, (title, _) in shown.items()}
    title = "Prefix caches: routing and eviction"
    return document(title, _header(title, found, facts, anchors, command), main, plots)


def _header(
    title: str, found: Sequence[Part], facts: dict[str, Any], anchors: dict[str, str], command: str
) -> Html:
    shown = {
        "traces": ", ".join(part.name for part in found),
        "requests": " + ".join(count(part.facts["requests"]) for part in found),
        "replicas": str(facts["replicas"]),
        "evictions": str(len(found[0].evictions)),
        "routers": str(len(found[0].routings)),
        "cells": str(sum(len(part.rows) for part in found)),
    }
    return masthead("infersim caches", title, shown, anchors, command)


def _answer(found: Sequence[Part]) -> Html:
    heads = [
        "trace",
        "KV of a replica",
        "infinite cache",
        "lru, best router",
        "effect of the router, lru",
        "effect of the eviction, best router",
        "effect of the eviction, worst router",
        "best eviction, best router",
    ]
    rows = [_effects(part, size) for part in found for size in part.sizes]
    caption = "hit rates in % of the prompt tokens; effects in points (best minus worst)"
    return tag(
        "section",
        tag("p", answer(found), class_="lead"),
        table(heads, rows, caption=caption),
        id="answer",
        class_="answer",
    )


def answer(found: Sequence[Part]) -> str:
    """Routing or eviction, in a few sentences."""
    return " ".join([verdict(found), *(_sentence(part) for part in found)])


def _sentence(part: Part) -> str:
    size = part.sizes[-1]
    best = part.best_routing(size)
    worst = min(part.routings, key=lambda r: part.rate(LRU, r, size))
    eviction, gain = part.over_lru(best, size)
    text = (
        f"{part.name}, {part.replicas} replicas of {size_text(size)}: lru hits "
        f"{percent(part.rate(LRU, best, size))} behind {best} and "
        f"{percent(part.rate(LRU, worst, size))} behind {worst} "
        f"(infinite cache {percent(part.ideal)})"
    )
    if gain < _EVEN:
        return f"{text}; no eviction does better than lru there."
    return f"{text}; the best eviction, {eviction}, adds {_points(gain)}."


def _effects(part: Part, size: int) -> list[object]:
    best = part.best_routing(size)
    worst = min(part.routings, key=lambda r: part.rate(LRU, r, size))
    eviction, gain = part.over_lru(best, size)
    return [
        Html(esc(part.name).replace("_", "_<wbr>")),
        Td(size_text(size), "text"),
        percent(part.ideal),
        Td(f"{percent(part.rate(LRU, best, size))} {best}", "text"),
        _points(part.routing_effect(LRU, size)),
        _points(part.eviction_effect(best, size)),
        Td(f"{_points(part.eviction_effect(worst, size))} {worst}", "text"),
        Td(LRU if gain < _EVEN else f"{eviction}, lru + {_points(gain)}", "text"),
    ]


def _points(share: float) -> str:
    return points(share, 0.0).lstrip("+").replace("=", "0")


def _map(part: Part, plots: Plots) -> Html:
    return plots.add(f"map-{part.name}", heat_map(part))


def _curve(part: Part, plots: Plots) -> Html:
    return plots.add(f"curve-{part.name}", curves(part))


def _own(found: Sequence[Part]) -> Html:
    """lru with the trace's own blocks, where the rest of the page has coarser ones."""
    made = []
    for part in found:
        own = part.facts["own_block_tokens"]
        if own == part.facts["block_tokens"]:
            continue
        heads = ["KV of a replica", "blocks", "one cache of all", *part.routings]
        rows: list[list[object]] = [
            [
                size_text(size),
                count(size // own) if size else "–",
                *(_beside(part, at, size, own) for at in (SHARED, *part.routings)),
            ]
            for size in (*part.sizes, 0)
        ]
        caption = (
            f"{part.name}: hit rate of lru with blocks of {own} tokens; in brackets, with the "
            f"{part.facts['block_tokens']:,} tokens of the other figures"
        )
        made.append(table(heads, rows, caption=caption, wide=False))
    return join(made)


def _beside(part: Part, routing: str, size: int, own: int) -> str:
    fine, coarse = (part.rate(LRU, routing, size, block) for block in (own, None))
    return f"{percent(fine)} ({percent(coarse)})"


def _numbers(found: Sequence[Part]) -> Html:
    made = []
    for part in found:
        heads = ["eviction, router", *(size_text(size) for size in part.sizes), "evicted blocks"]
        rows: list[list[object]] = [
            [
                f"{eviction} · {routing}",
                *(percent(part.rate(eviction, routing, size)) for size in part.sizes),
                count(_evicted(part, eviction, routing)),
            ]
            for eviction in part.ranked()
            for routing in part.routings
        ]
        caption = (
            f"{part.name}: hit rate by KV of a replica; evicted blocks of "
            f"{part.facts['block_tokens']:,} tokens at the largest"
        )
        made.append(details(part.name, table(heads, rows, caption=caption, wide=False)))
    return join(made)


def _evicted(part: Part, eviction: str, routing: str) -> int:
    wanted = eviction, routing, part.sizes[-1], part.facts["block_tokens"]
    for row in part.rows:
        if (row["eviction"], row["routing"], row["kv_tokens"], row["block_tokens"]) == wanted:
            found: int = row["evicted_blocks"]
            return found
    raise KeyError(wanted)


def _caveats(found: Sequence[Part], facts: dict[str, Any]) -> Html:
    said = [
        "No time passes: requests come in the order of the trace, and the last "
        f"{facts['in_flight']} of the cluster count as in flight. They hold their KV, and routers "
        "see them as load. What queues and speeds would change is not here.",
        "Answers are not cached: where a later prompt quotes one, it is computed again.",
    ]
    for part in found:
        about = part.facts
        own, block = about["own_block_tokens"], about["block_tokens"]
        if block != own:
            said.append(
                f"{part.name}: blocks of {block:,} tokens stand for the trace's {own}: faster to "
                "replay, and each hit is rounded down to them. What that costs stands above."
            )
        if not about["sessions"]:
            said.append(f"{part.name} names no sessions: session-sticky goes by load there.")
        refused = max(row["refused"] for row in part.rows)
        if refused:
            said.append(
                f"{part.name}: up to {count(refused)} requests are longer than a replica's KV; "
                "they count as missed."
            )
    return tag("ul", *(tag("li", text) for text in said))


def _definitions() -> Html:
    rows = [tag("div", tag("dt", name), tag("dd", text)) for name, text in _DEFINITIONS.items()]
    return tag("dl", *rows, class_="definitions")
