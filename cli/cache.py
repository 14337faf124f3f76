"""``infersim cache``: a trace through one cache, no timing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import note, print_json, print_table


def cache(
    trace: Annotated[Path, typer.Argument(help="A trace with block ids, plain or compressed.")],
    eviction: Annotated[
        str, typer.Option(help="Policies, e.g. 'lru,lfu(counting=global),my.py:Mine'.")
    ] = "lru",
    capacity: Annotated[str, typer.Option(help="Blocks, e.g. 1000,10000,inf.")] = "inf",
    format: Annotated[
        str | None, typer.Option("--format", help="The trace's format; recognised if left out.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option("--block-size", help="Tokens of one block id.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON rows.")] = False,
) -> None:
    """Replay a trace through a cache alone: hit rate by policy and capacity in blocks.

    `infersim cache mooncake_conversation_trace.jsonl.gz --eviction lru,lfu,belady
    --capacity 1000,10000,inf`. Every block of a request is looked up and inserted at its arrival;
    nothing is pinned and answers are not cached, so this bounds what an engine can reach.
    """
    from ..scenarios.cache.grid import replay_trace

    rows = list(
        replay_trace(
            trace,
            eviction,
            capacity,
            format=format,
            block_size=block_size,
            say=lambda caveat: note(f"note: {caveat}"),
        )
    )
    if json:
        print_json([row.to_dict() for row in rows])
        return
    head = ("eviction", "capacity", "hit rate", "hits", "references", "seconds")
    print_table(head, [tuple(row.to_dict().values()) for row in rows])
