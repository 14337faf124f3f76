"""``infersim cache``: traces through caches, no timing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..policies.errors import InputError
from .codes import InterruptedByUserError
from .console import note, print_json, print_table

if TYPE_CHECKING:
    from ..scenarios.cache.study import Result, Study

_EVICTIONS = (
    "lru,lfu,fifo,random,gdsf,length-aware,slru,session-ttl,sieve,s3-fifo,arc,w-tinylfu,belady"
)
_KV_TOKENS = "2M,8M"
_REPLICAS, _IN_FLIGHT, _SESSION_EVERY_S = 8, 64, 60.0


def cache(
    traces: Annotated[
        list[Path],
        typer.Argument(metavar="TRACE", help="Traces with block ids, plain or compressed."),
    ],
    eviction: Annotated[
        str | None,
        typer.Option(
            help="Policies, e.g. 'lru,lfu(counting=global),my.py:Mine'; lru if left out, with "
            "--routing thirteen of them."
        ),
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(help="Blocks, e.g. 1000,10000,inf; inf if left out.")
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(help="Replay a cluster behind each of these routers, e.g. round-robin."),
    ] = None,
    kv_tokens: Annotated[
        str | None, typer.Option(help="With --routing: KV of a replica, e.g. 500k,8M.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help=f"With --routing; {_REPLICAS} if left out.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"With --routing: requests of the cluster that hold KV; {_IN_FLIGHT} if left out.",
        ),
    ] = None,
    session_every_s: Annotated[
        float | None,
        typer.Option(
            help="With --routing: pause between starts of recorded sessions; "
            f"{_SESSION_EVERY_S:g} if left out."
        ),
    ] = None,
    block_tokens: Annotated[
        str | None,
        typer.Option(help="With --routing: tokens in a block, one number or one a trace."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="With --routing: write an HTML report to this file.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="With --routing: processes; as many as cores.")
    ] = None,
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

    With --routing, replicas behind a router are replayed, each with the simulator's own KV pool,
    for every eviction, router and size: `infersim cache a.jsonl.gz b.jsonl.xz --routing
    round-robin,session-sticky,prefix-aware --report cache.html`.
    """
    if routing is None:
        clusters = {
            "--kv-tokens": kv_tokens,
            "--replicas": replicas,
            "--in-flight": in_flight,
            "--session-every-s": session_every_s,
            "--block-tokens": block_tokens,
            "--report": report,
            "--jobs": jobs,
        }
        for name, given in clusters.items():
            if given is not None:
                raise InputError(
                    "a cluster is replayed only where --routing names routers",
                    where=name,
                    help="e.g. --routing session-sticky",
                )
        _one_cache(traces, eviction or "lru", capacity or "inf", format, block_size, json)
        return
    if capacity is not None:
        raise InputError(
            "with --routing the size of a replica is given in tokens",
            where="--capacity",
            help=f"--kv-tokens {_KV_TOKENS}",
        )
    if report is not None and not report.absolute().parent.is_dir():
        raise InputError("no such folder", where=f"--report {report}")
    from ..scenarios.cache.grid import read_study

    study = read_study(
        traces,
        eviction or _EVICTIONS,
        routing,
        kv_tokens or _KV_TOKENS,
        block_tokens,
        replicas=replicas or _REPLICAS,
        in_flight=in_flight or _IN_FLIGHT,
        session_every_s=_SESSION_EVERY_S if session_every_s is None else session_every_s,
        format=format,
        block_size=block_size,
        say=lambda caveat: note(f"note: {caveat}"),
    )
    _clusters(study, jobs, report, json)


def _clusters(study: Study, jobs: int | None, report: Path | None, json: bool) -> None:
    from ..scenarios.cache.parallel import run_study
    from ..scenarios.runner import cores

    cells = len(study.cells())
    done: list[Result] = []

    def hear(r: Result) -> None:
        done.append(r)
        note(
            f"[{len(done)}/{cells}] {r.trace} {r.eviction} {r.routing} "
            f"{f'{r.kv_tokens:,}' if r.kv_tokens else 'inf'}: "
            f"{r.hit_rate:.4f} after {r.seconds:.1f} s"
        )

    try:
        results = run_study(study, jobs=jobs or cores(), listen=hear)
    except KeyboardInterrupt:
        _print_clusters([result.to_dict() for result in done], json)
        raise InterruptedByUserError(
            f"interrupted; {len(done)} of {cells} cells are printed, and no report is written"
        ) from None
    rows = [result.to_dict() for result in results]
    if report is not None:
        from ..reports.page.caches import write_page

        write_page(report, rows, study.facts(), _command())
        note(f"wrote {report}")
    _print_clusters(rows, json)


def _print_clusters(rows: list[dict[str, Any]], json: bool) -> None:
    if json:
        print_json(rows)
        return
    head = ("trace", "eviction", "routing", "KV tokens", "block", "hit rate", "seconds")
    keys = ("trace", "eviction", "routing", "kv_tokens", "block_tokens", "hit_rate", "seconds")
    print_table(head, [tuple("inf" if row[k] == 0 else row[k] for k in keys) for row in rows])


def _one_cache(
    traces: list[Path],
    eviction: str,
    capacity: str,
    format: str | None,
    block_size: int | None,
    json: bool,
) -> None:
    from ..scenarios.cache.grid import replay_trace

    if len(traces) > 1:
        raise InputError(
            f"{len(traces)} traces: without --routing there is one", help="one command a trace"
        )
    rows = list(
        replay_trace(
            traces[0],
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


def _command() -> str:
    """What was typed, without the folders of files."""
    typed = [Path(word).name if Path(word).exists() else word for word in sys.argv[1:]]
    return shlex.join(["infersim", *typed])
