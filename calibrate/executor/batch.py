"""A step plan as the arrays that a forward takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...sim.state.plan import StepPlan
from ...sim.state.sequence import Sequence
from .masks import Masks, masks_of
from .pictures import NO_PICTURES, Pictures
from .texts import Texts


class Batch(NamedTuple):
    """Inputs of one step on the host: D sequences that compute one token, then P with more.

    Attributes:
        tokens: [T] token ids, T = D + all tokens of the chunks.
        positions: [T] of each in its sequence.
        slots: [T] block * block size + offset, where its KV is written.
        decodes: D.
        tables: [D + P, widest] block ids, 0 beyond a sequence's own.
        lengths: [D + P] KV tokens, the step's own included.
        query_start: [P + 1] rows of each chunk, counted from the first chunk's.
        rows: [S] rows that are sampled.
        pictures: what it does with images; a step of an encoder does nothing else, and has no rows.
        masks: of sampled rows that have a grammar; None: none has.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int32]
    slots: NDArray[np.int64]
    decodes: int
    tables: NDArray[np.int32]
    lengths: NDArray[np.int32]
    query_start: NDArray[np.int32]
    rows: NDArray[np.int64]
    pictures: Pictures = NO_PICTURES
    masks: Masks | None = None


class Row(NamedTuple):
    """Tokens of one sequence in a step."""

    seq: Sequence
    start: int
    tokens: int
    samples: bool


def rows_of(plan: StepPlan) -> list[Row]:
    """What a fresh plan computes, sequences with one token first."""
    members = plan.members or ()
    rows = [Row(seq, plan.index - seq.base, 1, True) for seq in members if seq.base is not None]
    rows += [Row(chunk.seq, chunk.start, chunk.tokens, chunk.samples) for chunk in plan.chunks]
    return sorted(rows, key=lambda row: row.tokens > 1)


def batch_of(
    rows: list[Row], texts: Texts, block_size: int, pictures: Pictures = NO_PICTURES
) -> Batch:
    """The arrays of *rows*; block tables are read now, so call it before the next plan."""
    counts = np.array([row.tokens for row in rows])
    starts = np.array([row.start for row in rows])
    decodes = int((counts == 1).sum())
    widest = max(len(row.seq.table) for row in rows)
    tables = np.zeros((len(rows), widest), dtype=np.int32)
    for i, row in enumerate(rows):
        tables[i, : len(row.seq.table)] = row.seq.table
    first = np.cumsum(counts) - counts
    positions = np.arange(counts.sum()) - np.repeat(first - starts, counts)
    blocks = tables[np.repeat(np.arange(len(rows)), counts), positions // block_size]
    chunks = np.concatenate([[0], np.cumsum(counts[decodes:])])
    return Batch(
        tokens=np.concatenate([texts.of(r.seq)[r.start : r.start + r.tokens] for r in rows]),
        positions=positions.astype(np.int32),
        slots=blocks.astype(np.int64) * block_size + positions % block_size,
        decodes=decodes,
        tables=tables,
        lengths=(starts + counts).astype(np.int32),
        query_start=chunks.astype(np.int32),
        rows=(first + counts - 1)[[row.samples for row in rows]],
        pictures=pictures,
        masks=masks_of([(row.seq, row.start + row.tokens) for row in rows if row.samples], texts),
    )


def encoding_of(pictures: Pictures) -> Batch:
    """A step of an encoder."""
    ids, numbers = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    return Batch(
        tokens=ids,
        positions=numbers,
        slots=ids,
        decodes=0,
        tables=np.zeros((0, 0), dtype=np.int32),
        lengths=numbers,
        query_start=np.zeros(1, dtype=np.int32),
        rows=ids,
        pictures=pictures,
    )
