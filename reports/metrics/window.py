"""The requests that are measured: those that arrived after the warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...sim.state.records import CellRecords
from .stats import Floats, seconds


@dataclass(frozen=True, slots=True)
class Window:
    """Columns of the measured requests.

    Attributes:
        columns: `REQUEST_COLUMNS` without the requests of the warm-up.
        finished: mask of the requests that finished.
        duration_s: first arrival to last completion; None when nothing finished.
    """

    columns: dict[str, NDArray[Any]]
    finished: NDArray[np.bool_]
    duration_s: float | None

    @classmethod
    def of(cls, cell: CellRecords) -> Window:
        """Cut the warm-up off *cell*."""
        keep = cell.requests["arrival_ps"] >= cell.warm_up_ps
        columns = {name: column[keep] for name, column in cell.requests.items()}
        finished = np.asarray(columns["status"] == "finished", dtype=np.bool_)
        duration_s = None
        if finished.any():
            last_ps = int(columns["finish_ps"][finished].max())
            duration_s = (last_ps - int(columns["arrival_ps"].min())) / 1e12
        return cls(columns, finished, duration_s)

    def __len__(self) -> int:
        return len(self.finished)

    def done(self, name: str) -> NDArray[Any]:
        """Column *name* of the finished requests."""
        return self.columns[name][self.finished]

    def between_s(self, start: str, end: str) -> Floats:
        """Seconds from column *start* to column *end* of every finished request."""
        return seconds(self.done(end) - self.done(start))

    def tpot_s(self) -> Floats:
        """(last - first token) / (tokens - 1) of finished requests; NaN for a single token."""
        gaps = self.done("output_tokens") - 1
        span = self.between_s("first_token_ps", "finish_ps")
        tpot_s: Floats = np.divide(span, gaps, out=np.full(len(span), np.nan), where=gaps > 0)
        return tpot_s

    def per_second(self, amount: float) -> float:
        """*amount* over the window's duration; 0 when nothing finished."""
        return amount / self.duration_s if self.duration_s else 0.0

    def split_s(self) -> dict[str, Floats]:
        """Finished requests by where their time went: encode, grammar, queue, prefill, …, decode.

        Encode, where there is any: until all embeddings of its images came from encoders. Grammar,
        likewise: until its grammar was compiled where its prompt is computed. Prefill is all from
        first scheduling to first token but the transfer of its KV: chunks, waits between them and,
        where prefill and decode are split, the wait for the decode side.
        """
        before = self.between_s("arrival_ps", "scheduled_ps")
        encode = np.minimum(seconds(self.done("encode_ps").clip(0)), before)
        grammar = np.zeros(len(before))
        if "grammar_ps" in self.columns:
            grammar = np.minimum(seconds(self.done("grammar_ps").clip(0)), before - encode)
        first = self.between_s("scheduled_ps", "first_token_ps")
        transfer = np.minimum(seconds(self.done("transfer_ps").clip(0)), first)
        return {
            **({"encode": encode} if encode.any() else {}),
            **({"grammar": grammar} if grammar.any() else {}),
            "queue": before - encode - grammar,
            "prefill": first - transfer,
            "transfer": transfer,
            "decode": self.between_s("first_token_ps", "finish_ps"),
        }
