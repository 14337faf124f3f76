"""KV capacity, caveats, definitions and the scenario on the page."""

from __future__ import annotations

import json
from typing import Any

from ..metrics.goals import SLO_TARGET
from ..metrics.intervals import spread
from ..metrics.stats import MIN_SAMPLES
from ..text import MISSING, count, number, percent, plural, size, time
from .context import Context
from .html import Html, Td, details, join, table, tag

DEFINITIONS = {
    "TTFT": "time to first token: first token − arrival at the cluster.",
    "TPOT": "time per output token of a request: (last − first token) / (tokens − 1); requests "
    "with a single output token have none.",
    "ITL": "inter-token latency: every gap between two tokens, pooled over all requests of the run "
    "(the warm-up too), in bins 0.1 % wide. Long answers weigh more in it than in TPOT.",
    "E2E": "end-to-end latency: last token − arrival.",
    "queue": "first scheduling − arrival.",
    "encode, in bars and tables": "arrival of the last embedding − arrival, where images go to "
    "encoders; it is no part of the queue there.",
    "grammar, in bars and tables": "until the grammar of its answer was compiled, where it had not "
    "been; it is no part of the queue there.",
    "prefill, in bars and tables": "first token − first scheduling, without the KV transfer: it "
    "holds the waits between chunks and, in a prefill/decode split, for the decode side.",
    "hit rate": "prompt tokens found in the replica's own prefix cache / prompt tokens, over "
    "requests that were scheduled at least once, counted at first admission.",
    "never seen before": "missed because no earlier request had sent these tokens.",
    "seen, then evicted": "missed because the KV had been here and was evicted.",
    "same text behind another prefix": "diverged: the text had been seen, but something before it "
    "changed, so its KV cannot be used.",
    "only on another replica": "missed here while another replica holds the KV.",
    "block rounding": "missed because only whole blocks are cached and one token must be computed.",
    "output tokens/s, requests/s": "of the measured requests that finished, over the time from the "
    "first measured arrival to their last completion.",
    "goodput": "measured requests per second that keep within every SLO limit; failed and shed "
    "requests do not; a single output token counts as TPOT 0.",
    "SLO met": f"at least {SLO_TARGET * 100:.0f} % of the arrived requests keep within the limit.",
    "STABLE, BACKLOGGED, OVERLOADED": "over the second half of the arrivals: OVERLOADED when the "
    "fitted queue grew by more than 5 % of the arrivals (and 5 requests); BACKLOGGED when requests "
    "waited more often than not; else STABLE.",
    "*": "too few samples for a two-sided 95 % order-statistic interval: needs "
    + ", ".join(f"{n} for {name}" for name, n in MIN_SAMPLES.items())
    + ".",
    "percentiles": "linear interpolation (numpy). All times are the server's clock: no client "
    "network is in them.",
}


def capacity(page: Context) -> Html:
    """How the KV capacity of each pool was computed; equal cells share a table."""
    groups: dict[str, list[int]] = {}
    for i, cell in enumerate(page.cells):
        groups.setdefault(json.dumps(cell.capacity, sort_keys=True, default=str), []).append(i)
    tables = []
    for members in groups.values():
        pools = page.cells[members[0]].capacity
        if pools:
            names = [page.names[i] for i in members]
            who = "every cell" if len(groups) == 1 else ", ".join(names)
            tables.append(_pools(pools, who))
    if len(tables) > 2:
        return join([tables[0], details(f"{len(tables) - 1} more", *tables[1:])])
    return join(tables)


def _pools(pools: list[dict[str, Any]], who: str) -> Html:
    keys = list(dict.fromkeys(key for pool in pools for key in pool if key != "name"))
    rows = [[_words(key), *(_quantity(key, pool.get(key)) for pool in pools)] for key in keys]
    heads = ["quantity", *(str(pool.get("name", f"pool {i + 1}")) for i, pool in enumerate(pools))]
    return table(heads, rows, caption=f"KV capacity by pool, {who}", wide=False)


def _words(key: str) -> str:
    return key.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def _quantity(key: str, value: Any) -> object:
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key.endswith("_bytes") or "bytes_per" in key:
        return f"{size(value)}" + (f" ({count(value)} B)" if value < 1 << 20 else "")
    if key.endswith("_s"):
        return time(value)
    return count(value) if isinstance(value, int) else number(value)


def caveats(page: Context) -> Html:
    """What the numbers rest on."""
    points = [*_sources(page), *_sample(page)]
    for note in dict.fromkeys(note for cell in page.cells for note in cell.notes):
        where = [page.names[i] for i, cell in enumerate(page.cells) if note in cell.notes]
        suffix = "" if len(where) == len(page.cells) else f" ({', '.join(where)})"
        points.append(note + suffix)
    return tag("ul", *(tag("li", point) for point in points))


def _sources(page: Context) -> list[str]:
    sources = list(dict.fromkeys(cell.cost_source for cell in page.cells if cell.cost_source))
    found = [
        "Hits, evictions, preemptions and batches are decisions, simulated step by step. Seconds "
        "are those decisions priced by a cost model: " + ("; ".join(sources) or "not stated") + "."
    ]
    parts = [part for source in sources for part in source.split("; ")]
    guesses = [part for part in parts if part.startswith("datasheet")]
    for name, metrics in zip(page.names, page.summaries, strict=True):
        if (shares := metrics["step_time"]) and shares["datasheet"] < 1:
            known = [f"{percent(share)} {grade}" for grade, share in shares.items() if share]
            of = f" of {name}" if len(page.names) > 1 else ""
            found.append(f"Step time{of}: {', '.join(known)}.")
        if interval := metrics.get("intervals"):
            found.append(f"{name}: {spread(interval)}.")
    if guesses:
        found.append(
            "Step times are a datasheet guess, nothing in them was measured on this GPU: read the "
            "differences between cells rather than the seconds, and calibrate before deciding."
        )
    return found


def _sample(page: Context) -> list[str]:
    found = ["One seed: differences of a few percent between cells may be chance."]
    warm_up = sorted({metrics["window"]["from_s"] for metrics in page.summaries})
    if any(warm_up):
        left = sum(m["requests"]["arrived"] - m["window"]["requests"] for m in page.summaries)
        found.append(
            f"Warm-up: {plural(left, 'request')} that arrived before "
            f"{' / '.join(time(s) for s in warm_up)} are left out of latencies, rates and hits."
        )
    else:
        found.append("No warm-up window: the cold cache at the start is part of every figure.")
    if any(cell.oracle for cell in page.cells):
        found.append("Cells marked as a bound use knowledge of the future and cannot be deployed.")
    return found


def definitions(page: Context) -> Html:
    """What each metric means."""
    goals = any(cell.slo for cell in page.cells)
    encodes = any("encode" in metrics["time_split_s"] for metrics in page.summaries)
    hidden = set() if goals else {"goodput", "SLO met"}
    hidden |= set() if encodes else {"encode, in bars and tables"}
    compiles = any("grammar" in metrics["time_split_s"] for metrics in page.summaries)
    hidden |= set() if compiles else {"grammar, in bars and tables"}
    shown = {name: meaning for name, meaning in DEFINITIONS.items() if name not in hidden}
    parts = [tag("div", tag("dt", name), tag("dd", meaning)) for name, meaning in shown.items()]
    return tag("dl", *parts, class_="definitions")


def scenario(page: Context) -> Html:
    """The whole scenario and where the run came from."""
    facts = [[str(key), Td(_fact(value), "prose")] for key, value in page.provenance.items()]
    came_from = table(["provenance", ""], facts, caption="where this run came from", wide=False)
    return join(
        [came_from if facts else "", details("full scenario", tag("pre", page.scenario_yaml))]
    )


def _fact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
