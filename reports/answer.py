"""The answer of a run in one to three sentences, and what must be said before it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..sim.state.records import CellRecords
from .labels import labels, short
from .metrics.step_time import DOUBTFUL, doubtful
from .ranking import Ranking, effects, rank
from .text import compared, percent, plural, significant, time

_COVERED = 0.05  # of the step time may lie outside of what was measured
_SAME = 0.01  # cells nearer than this to one another are called alike


def answer(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> str:
    """What the run found, in plain text."""
    ranking = rank(cells, summaries)
    names = labels(cells)
    if ranking.best is None or ranking.worst is None:
        if ranking.bound is None:
            return _nothing_finished(summaries)
        who = f"{names[ranking.bound]}: " if len(cells) > 1 else ""
        found = _single(summaries[ranking.bound])
        return f"A bound, since its policies see the future. {who}{found}"
    if len(cells) == 1:
        return _single(summaries[0])
    parts = [_best(ranking, ranking.best, ranking.worst, names, summaries)]
    parts += _what_matters(cells, ranking)
    if ranking.bound is not None:
        parts.append(
            f"{names[ranking.bound]} sees the future and is a bound, not a choice: "
            f"{_show(ranking, ranking.bound)}."
        )
    return " ".join(parts)


def _nothing_finished(summaries: Sequence[dict[str, Any]]) -> str:
    arrived = sum(metrics["requests"]["arrived"] for metrics in summaries)
    if not arrived:
        return "No request arrived, so there is nothing to measure."
    if any(metrics["requests"]["finished"] for metrics in summaries):
        return "No request that arrived after the warm-up finished: nothing can be measured."
    reasons = [r for m in summaries for r in (*m["failed_reasons"], *m["shed_reasons"]) if r]
    why = f" ({'; '.join(list(dict.fromkeys(reasons))[:3])})" if reasons else ""
    return f"None of the {plural(arrived, 'request')} finished{why}."


def _single(metrics: dict[str, Any]) -> str:
    requests = metrics["requests"]
    hit = metrics["hit_rate"]
    cached = f"; {percent(hit)} of the prompt tokens hit the cache" if hit is not None else ""
    return (
        f"{requests['finished']:,} of {plural(requests['arrived'], 'request')} finished: half of "
        f"them got their first token within {time(metrics['ttft_s']['p50'])}, the mean request "
        f"took {time(metrics['e2e_s']['mean'])}{cached}."
    )


def _show(ranking: Ranking, cell: int) -> str:
    value = ranking.values[cell]
    shown = f"{significant(value or 0.0)} requests/s" if ranking.higher_is_better else time(value)
    return f"{ranking.measure} {shown}"


def _best(
    ranking: Ranking,
    best: int,
    worst: int,
    names: list[str],
    summaries: Sequence[dict[str, Any]],
) -> str:
    top, low = ranking.values[best], ranking.values[worst]
    if top and low and abs(low / top - 1) < _SAME:
        return (
            f"The {len(names)} cells are within 1 % of one another ({_show(ranking, best)}): "
            "what is compared here hardly matters under this load."
        )
    hit = summaries[best]["hit_rate"]
    cached = f", hit rate {percent(hit)}" if hit is not None else ""
    if best == 0:
        return (
            f"{names[0]}, the first cell, is best: {_show(ranking, 0)}{cached}; "
            f"{names[worst]}, the worst, has {compared(low, top).removesuffix(' than')}."
        )
    text = f"{names[best]} is best: {_show(ranking, best)}"
    if against := compared(top, ranking.values[0]):
        text += f", {against} the first cell, {names[0]}"
    was = summaries[0]["hit_rate"]
    before = f" against {percent(was)}" if was is not None and cached else ""
    return f"{text}{cached.replace(',', ';', 1)}{before}."


def _what_matters(cells: Sequence[CellRecords], ranking: Ranking) -> list[str]:
    found = effects(cells, ranking)
    if not found:
        return []
    (first, most), *rest = found
    others = ", ".join(f"{short(key)} by {percent(effect)}" for key, effect in rest)
    return [
        f"On average {short(first)} moves {ranking.measure} by {percent(most)}, {others} "
        "(best to worst value)."
    ]


def warnings(cells: Sequence[CellRecords], summaries: Sequence[dict[str, Any]]) -> list[str]:
    """What must be read before the numbers: overload, refused requests, too few samples."""
    names = labels(cells)
    return [
        *_load(names, summaries),
        *_lost(summaries),
        *_guessed(summaries),
        *_few(summaries),
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _load(names: list[str], summaries: Sequence[dict[str, Any]]) -> list[str]:
    found = [
        name
        for name, metrics in zip(names, summaries, strict=True)
        if metrics["saturation"]["verdict"] == "OVERLOADED"
    ]
    if not found:
        return []
    who = "The run is" if len(names) == 1 else f"{len(found)} of {len(names)} cells are"
    which = "" if len(found) == len(names) else f" ({_listed(found)})"
    return [
        f"{who} OVERLOADED{which}: the queue kept growing, so latencies there depend on the length "
        "of the run and are no steady state."
    ]


def _lost(summaries: Sequence[dict[str, Any]]) -> list[str]:
    lost = [m["requests"]["failed"] + m["requests"]["shed"] for m in summaries]
    if not any(lost):
        return []
    arrived = sum(metrics["requests"]["arrived"] for metrics in summaries)
    among = "" if len(lost) == 1 else f" in {plural(len(lost) - lost.count(0), 'cell')}"
    return [
        f"{sum(lost):,} of {plural(arrived, 'request')} failed or were shed{among}; "
        "latencies are of those that finished."
    ]


def _guessed(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Said of a profile that does not cover a run; a roofline is announced as one."""
    worst = max(summaries, key=lambda metrics: doubtful(metrics["step_time"]))
    shares = worst["step_time"]
    if doubtful(shares) <= _COVERED or shares["datasheet"] > 1 - _COVERED:
        return []
    parts = [f"{percent(shares[grade])} {grade}" for grade in DOUBTFUL if shares[grade]]
    where = "" if len(summaries) == 1 else " in the worst cell"
    return [f"The profile does not cover the run: of the step time {', '.join(parts)}{where}."]


def _few(summaries: Sequence[dict[str, Any]]) -> list[str]:
    smallest = min(summaries, key=lambda metrics: int(metrics["ttft_s"]["n"]))
    fewest, weak = smallest["ttft_s"]["n"], smallest["ttft_s"]["unsupported"]
    if fewest == 0 or not weak:
        return []
    where = "" if len(summaries) == 1 else " in the smallest cell"
    return [
        f"Only {plural(fewest, 'measured request')}{where}: {', '.join(weak)} marked * have no "
        "95 % interval at this sample size."
    ]
