"""The columns of the table of cells, for the page and the terminal alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from . import text

Metrics = dict[str, Any]

#: Latencies of a metrics object and what people call them.
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E", "queue_s": "queue"}
#: The statistics of each that are shown.
STATS = ("mean", "p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of every cell.

    Attributes:
        name: what is measured.
        unit: of the shown values; "" when they carry it themselves or have none.
        get: the value in a metrics object; None when it does not exist.
        show: the value as text, in the unit.
        lower_is_better: which end is.
        delta: the difference to the first cell as text; None for no difference.
        weak: whether this cell's value is a percentile of too few samples.
    """

    name: str
    unit: str
    get: Callable[[Metrics], float | None]
    show: Callable[[float | None], str]
    lower_is_better: bool
    delta: Callable[[float | None, float | None], str] | None = text.change
    weak: Callable[[Metrics], bool] = lambda _: False

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def marked(self, metrics: Metrics) -> str:
        """The value as text, with * when the sample is too small."""
        return self.show(self.get(metrics)) + ("*" if self.weak(metrics) else "")

    def best(self, summaries: Sequence[Metrics], bounds: Collection[int] = ()) -> set[int]:
        """Indices of the best cells, *bounds* aside; none when all show the same."""
        found = [
            (i, value)
            for i, metrics in enumerate(summaries)
            if i not in bounds and (value := self.get(metrics)) is not None
        ]
        if len({self.show(value) for _, value in found}) < 2:
            return set()
        pick = min if self.lower_is_better else max
        top = self.show(pick(value for _, value in found))
        return {i for i, value in found if self.show(value) == top}


def latency(summaries: Sequence[Metrics], metric: str, stat: str) -> Column:
    """A latency column, in ms when all its cells are below 10 s, else in s."""

    def get(metrics: Metrics) -> float | None:
        value: float | None = metrics[metric][stat]
        return value

    values = [value for metrics in summaries if (value := get(metrics)) is not None]
    unit, scale = text.time_unit(max(values, default=0.0))

    def show(value: float | None) -> str:
        return text.number(None if value is None else value * scale)

    def weak(metrics: Metrics) -> bool:
        return stat in metrics[metric]["unsupported"] and metrics[metric]["n"] > 0

    return Column(f"{LATENCIES[metric]} {stat}", unit, get, show, lower_is_better=True, weak=weak)


def columns(summaries: Sequence[Metrics]) -> list[Column]:
    """What the table of cells shows; goodput and cost only where they exist."""
    return [
        _plain("hit rate", "", "hit_rate", text.percent, lower=False, delta=text.points),
        latency(summaries, "ttft_s", "p50"),
        latency(summaries, "ttft_s", "p99"),
        latency(summaries, "tpot_s", "p50"),
        latency(summaries, "e2e_s", "mean"),
        latency(summaries, "e2e_s", "p99"),
        *rates(summaries),
        _plain("preemptions", "", "preemptions", text.count, lower=True, delta=None),
    ]


def rates(summaries: Sequence[Metrics]) -> list[Column]:
    """Throughput, then goodput, SLO attainment and cost where a cell has them."""
    output = _plain("output", "tokens/s", "output_tokens_per_s", text.number, lower=False)
    per_million = "usd_per_million_output_tokens"
    optional = [
        _plain("goodput", "requests/s", "goodput_rps", text.number, lower=False),
        _plain("within SLO", "", "slo_attainment", text.percent, lower=False, delta=text.points),
        _plain("cost", "US$ per M output tokens", per_million, text.number, lower=True),
    ]
    given = [c for c in optional if any(c.get(metrics) is not None for metrics in summaries)]
    return [output, *given]


def _plain(
    name: str,
    unit: str,
    key: str,
    show: Callable[[float | None], str],
    *,
    lower: bool,
    delta: Callable[[float | None, float | None], str] | None = text.change,
) -> Column:
    return Column(name, unit, lambda metrics: metrics[key], show, lower, delta)
