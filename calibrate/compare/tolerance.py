"""``--tolerance ttft=2,tpot.p99=3,running=0.98``: limits whose breach makes the check fail."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from ...policies.errors import InputError, UnknownNameError
from .figures import LATENCIES, RATES, STATISTICS

_LATENCIES = {metric.removesuffix("_s"): metric for metric in LATENCIES}
_CORRELATIONS = ("running", "kv")
#: name -> what the number means
MEANING = {
    **dict.fromkeys(_LATENCIES, "largest error in %, of mean, p50, p90 and p99"),
    "throughput": "largest error in %, of requests/s, output and total tokens/s",
    "ttft-share": "error of the mean TTFT in % of the mean E2E",
    "hit": "error of the hit rate in points",
    "kv-blocks": "error of the KV capacity in %",
    "step": "median error of a step's time in %",
    "decisions": "steps that were decided differently",
    "running": "least correlation of the running requests over time",
    "kv": "least correlation of the KV use over time",
    "tau": "least Kendall τ of the ranking of cells, over every figure",
}


class Tolerance(NamedTuple):
    """One limit.

    Attributes:
        name: as typed, e.g. "ttft" or "ttft.p99".
        limit: in the unit of `MEANING`.
    """

    name: str
    limit: float


def parse(texts: Sequence[str]) -> list[Tolerance]:
    """``name=number``, several by commas or by repeating the option.

    Raises:
        InputError: no number, a negative one, or a name that means nothing.
    """
    found = []
    for text in texts:
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, equals, number = part.partition("=")
            where = f"--tolerance {part}"
            base, dot, stat = name.strip().partition(".")
            if base not in MEANING:
                raise UnknownNameError("tolerance", base, MEANING, where=where)
            if dot and (base not in _LATENCIES or stat not in STATISTICS):
                raise UnknownNameError("statistic", stat, STATISTICS, where=where)
            try:
                limit = float(number)
            except ValueError:
                limit = -1.0
            if not equals or limit < 0 or not isfinite(limit):
                help = f"e.g. {base}=2: {MEANING[base]}"
                raise InputError("a tolerance is name=number", where=where, help=help)
            found.append(Tolerance(name.strip(), limit))
    return found


def check(
    tolerances: Sequence[Tolerance],
    cells: Sequence[dict[str, Any]],
    ranking: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """One row a limit: the worst value of all cells, whether it keeps, and where it was found.

    What could not be compared does not keep.
    """
    found = []
    for name, limit in tolerances:
        base, _, stat = name.partition(".")
        least = base in (*_CORRELATIONS, "tau")
        values = _taus(ranking) if base == "tau" else []
        for cell in cells if base != "tau" else ():
            values += [
                (value, _place(cell, cells, what)) for value, what in _values(cell, base, stat)
            ]
        known = [(value, what) for value, what in values if value is not None]
        row: dict[str, Any] = {"name": name, "limit": limit, "least": least, "worst": None}
        if len(known) < len(values) or not known:
            gaps = [what for value, what in values if value is None]
            row |= {"met": False, "at": f"not comparable: {', '.join(gaps) or base}"}
        else:
            worst, where = (min if least else max)(known, key=lambda pair: pair[0])
            met = worst >= limit if least else worst <= limit
            row |= {"worst": worst, "met": met, "at": where}
        found.append(row)
    return found


Found = list[tuple[float | None, str]]


def _values(cell: dict[str, Any], base: str, stat: str) -> Found:
    """(value in the unit of the limit, what it is of)."""
    if base in _LATENCIES:
        return _errors(cell, [(_LATENCIES[base], s) for s in ((stat,) if stat else STATISTICS)])
    if base == "throughput":
        return _errors(cell, [(metric, "value") for metric in RATES])
    if base == "hit":
        return _errors(cell, [("hit_rate", "value")])
    if base == "ttft-share":
        return [(_percent(cell["ttft_share_of_e2e"]), "ttft mean")]
    if base == "kv-blocks":
        return [(_percent(cell["capacity"]["error"]), "KV capacity")]
    if base in _CORRELATIONS:
        return [(cell["series"].get(base, {}).get("correlation"), f"{base} over time")]
    log = cell["steps"]
    if log is None:
        return [(None, "no step log")]
    if base == "decisions":
        differ = max(log["measured"], log["simulated"]) - log["same"]
        return [(float(differ), "steps")]
    return [(_percent(row["median"]), f"{row['kind']} steps") for row in log["times"][:1]]


def _errors(cell: dict[str, Any], wanted: Sequence[tuple[str, str]]) -> Found:
    rows = {(row["metric"], row["stat"]): row["error"] for row in cell["rows"]}
    return [(_percent(rows.get(key)), _named(*key)) for key in wanted]


def _named(metric: str, stat: str) -> str:
    """ "ttft mean", "hit rate"."""
    if stat == "value":
        return metric.replace("_per_s", "/s").replace("_", " ")
    return f"{metric.removesuffix('_s')} {stat}"


def _percent(share: float | None) -> float | None:
    return None if share is None else abs(share) * 100


def _taus(ranking: Sequence[dict[str, Any]]) -> Found:
    """Of every figure in which the cells differ."""
    return [
        (row["tau"], f"ranking by {_named(row['metric'], row['stat'])}")
        for row in ranking
        if not row["all_tied"]
    ]


def _place(cell: dict[str, Any], cells: Sequence[dict[str, Any]], what: str) -> str:
    return what if len(cells) == 1 else f"{what} in {cell['name']}"
