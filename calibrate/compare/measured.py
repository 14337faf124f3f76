"""What a run left, measured or simulated, in the same terms: seconds, tokens, blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Figures: TypeAlias = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests that were answered in full, in order of arrival; all columns are as long.

    Attributes:
        arrival_s: since the first arrival of the run; None where the file does not say.
        ttft_s: first token − arrival.
        e2e_s: last token − arrival.
        prompt_tokens, output_tokens: int64.
        hit_tokens: prompt tokens found in a cache; None where nothing says.
    """

    arrival_s: Floats | None
    ttft_s: Floats
    e2e_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    hit_tokens: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ttft_s)

    def tpot_s(self) -> Floats:
        """(last − first token) / (tokens − 1); NaN for a single token."""
        gaps = self.output_tokens - 1
        span = self.e2e_s - self.ttft_s
        found: Floats = np.divide(span, gaps, out=np.full(len(span), np.nan), where=gaps > 0)
        return found

    def where(self, keep: NDArray[np.bool_]) -> Requests:
        """The rows of *keep*."""
        return Requests(
            None if self.arrival_s is None else self.arrival_s[keep],
            self.ttft_s[keep],
            self.e2e_s[keep],
            self.prompt_tokens[keep],
            self.output_tokens[keep],
            None if self.hit_tokens is None else self.hit_tokens[keep],
        )


@dataclass(frozen=True, slots=True)
class Series:
    """The load over time, summed over replicas.

    Attributes:
        t_s: since the first arrival, rising.
        running, waiting: requests.
        kv: share of the KV blocks that requests hold, 0..1; None where it was not recorded.
    """

    t_s: Floats
    running: Floats
    waiting: Floats
    kv: Floats | None


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one cell.

    Attributes:
        name: where it came from, as shown to the reader.
        format: what kind of record it is.
        clock: whose latencies these are: a client's hold network and HTTP, a server's do not.
        requests: None where only aggregates were kept.
        given: figures that the file states itself, by metric and statistic; used where
            `requests` cannot give them (gaps between tokens, say).
        series: None where nothing was sampled.
        steps: columns of `sim.state.steps`; None without a step log.
        kv_blocks: blocks that requests can use, all replicas; None where nothing says.
        block_size: tokens of a block.
        settings: how the engine was set, under the scenario's names for these settings.
        unfinished: requests that failed, were shed or never ended; in none of the figures.
        cell: name of the cell, where the record has cells.
        timed_by: the cost model whose times these are; "" for a real clock.
        notes: what the reader must know.
    """

    name: str
    format: str
    clock: Literal["server", "client"] = "server"
    requests: Requests | None = None
    given: Figures = field(default_factory=dict)
    series: Series | None = None
    steps: dict[str, NDArray[Any]] | None = None
    kv_blocks: int | None = None
    block_size: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    unfinished: int = 0
    cell: str = ""
    timed_by: str = ""
    notes: tuple[str, ...] = ()


def in_order(
    arrival_s: Floats,
    ttft_s: Floats,
    e2e_s: Floats,
    prompt_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    hit_tokens: NDArray[np.int64] | None = None,
) -> Requests:
    """The columns sorted by arrival (ties as they stand), which then counts from the first."""
    order = np.argsort(arrival_s, kind="stable")
    first = arrival_s[order[0]] if len(order) else 0.0
    return Requests(
        arrival_s[order] - first,
        ttft_s[order],
        e2e_s[order],
        prompt_tokens[order],
        output_tokens[order],
        None if hit_tokens is None else hit_tokens[order],
    )
