"""The grids of calibration.md section 3.4, and small ones for a CPU."""

from __future__ import annotations

from typing import NamedTuple


class Grids(NamedTuple):
    """Where the ops are measured.

    Attributes:
        coarse, fine: token counts in order of priority; the fine ones are 2^k + 1, where a kernel
            starts another wave of tiles.
        decodes, contexts: batches and mean KV tokens of decode attention.
        chunks, prefixes: of prefill attention.
        copies: bytes of transfers.
        blocks: KV blocks of a gather or scatter.
        skewed, mixed: how many batches of uneven lengths are tried beside the grid.
        steps: (decodes, context) of whole steps.
    """

    coarse: tuple[int, ...]
    fine: tuple[int, ...]
    decodes: tuple[int, ...]
    contexts: tuple[int, ...]
    chunks: tuple[int, ...]
    prefixes: tuple[int, ...]
    copies: tuple[int, ...]
    blocks: tuple[int, ...]
    skewed: int
    mixed: int


def doubling(first: int, last: int, factor: int = 2) -> tuple[int, ...]:
    """first, first * factor, … up to *last*."""
    found = []
    while first <= last:
        found.append(first)
        first *= factor
    return tuple(found)


def gpu_grids(budget: int, max_seqs: int, max_context: int, graphs: tuple[int, ...]) -> Grids:
    """The full grids: about 900 points for an 8B model."""
    powers = doubling(1, budget)
    coarse = sorted({*powers, budget, *graphs})
    fine = sorted({p + 1 for p in powers if p + 1 < budget} - set(coarse))
    return Grids(
        tuple(coarse),
        tuple(fine),
        tuple(sorted({*doubling(1, max_seqs), max_seqs})),
        tuple(sorted({*doubling(64, max_context), max_context})),
        tuple(sorted({2, *doubling(16, budget), budget})),
        (0, *doubling(256, min(65536, max_context))),
        doubling(4096, 1 << 30, 4),
        doubling(1, 4096, 4),
        skewed=40,
        mixed=20,
    )


def cpu_grids(budget: int, max_seqs: int, max_context: int) -> Grids:
    """A small copy of them, for a tiny model: the same pipeline in seconds."""
    longest = min(1024, max_context)
    return Grids(
        tuple(sorted({*doubling(1, budget, 2), budget})),
        tuple(sorted({3, 5, 17, 33} & set(range(budget)))),
        tuple(sorted({*doubling(1, max_seqs, 4), max_seqs})),
        doubling(16, longest, 4),
        tuple(sorted({*doubling(2, budget, 4), budget})),
        (0, *doubling(64, longest, 4)),
        doubling(4096, 1 << 22, 8),
        (1, 8, 64),
        skewed=2,
        mixed=2,
    )
